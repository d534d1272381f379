"""CLIP's text tower, split into token embedding and encoder so that prompts can be learned."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.config import TextConfig
from sapl_jax.clip.layers import LayerNorm, Linear, normal
from sapl_jax.clip.stack import KEEP, make_blocks, run_blocks
from sapl_jax.errors import UserError


class TextTower(nnx.Module):
    """The causal text transformer of CLIP with its projection into the joint space."""

    def __init__(self, config: TextConfig, projection_dim: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = config.hidden_size
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.token_embedding = normal(rngs, (config.vocab_size, width), 0.02, dtype)
        self.positions = normal(rngs, (config.max_position_embeddings, width), 0.02, dtype)
        self.blocks = make_blocks(config, dtype, rngs)
        self.final_norm = LayerNorm(width, config.layer_norm_eps, dtype)
        self.projection = Linear(width, projection_dim, width**-0.5, dtype, rngs, bias=False)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Token embeddings without positions: int [..., N] -> [..., N, d_t]."""
        return self.token_embedding[...][ids]

    def encode(self, embeddings: jax.Array, eot: jax.Array | int) -> jax.Array:
        """Text features of a sequence of token embeddings.

        Args:
            embeddings: [B, N, d_t] without positions; N at most `max_position_embeddings`.
                Encode only the tokens that exist: the tower is causal, so padding changes nothing.
            eot: position of the end-of-text token, an int or int [B].

        Returns:
            [B, projection_dim] in the tower's dtype, not normalised.
        """
        _, last = self.hidden_states(embeddings, ())
        eot = jnp.broadcast_to(jnp.asarray(eot), last.shape[:1])
        pooled = jnp.take_along_axis(last, eot[:, None, None], axis=1)[:, 0]
        return self.projection(self.final_norm(pooled))

    def hidden_states(
        self, embeddings: jax.Array, taps: Sequence[int]
    ) -> tuple[list[jax.Array], jax.Array]:
        """The tapped hidden states (0 is the input of block 1) and the last, each [B, N, d_t].

        Raises:
            UserError: more tokens than position embeddings.
        """
        length, limit = embeddings.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise UserError(
                f"found a text of {length} tokens; this CLIP takes at most {limit}. "
                "Use fewer context or edge tokens."
            )
        x = embeddings.astype(self.dtype) + self.positions[...][:length]
        return run_blocks(self.blocks, x, taps, causal=True, recompute=KEEP)
