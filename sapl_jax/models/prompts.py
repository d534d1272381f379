"""Prompts of the two classes: [SOT][V_1 .. V_n][edge tokens][CLASS][EOT].

The variants are the rows of the paper's prompt ablation:

    fixed         [SOT][CLASS][EOT]; nothing is learned.
    coop          learned context V, the same for every image.
    cocoop        V plus a bias per image, made from the CLS feature by a small network.
    ecpl_no_edge  V and edge tokens with M = 1: patch features without soft edges.
    ecpl          V and edge tokens: the paper's prompts.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from sapl_jax.clip.blocks import Trainable, lecun_stacked
from sapl_jax.clip.model import CLIP
from sapl_jax.errors import UserError
from sapl_jax.models.ecpl import EdgeTokens

_COCOOP_REDUCTION = 16  # As in CoCoOp: the meta-net's hidden width is the vision width / 16.


class Prompts(nnx.Module):
    """The text input of both classes, from learned context and the image's own features."""

    def __init__(
        self, clip: CLIP, class_ids: Sequence[Sequence[int]], options: Any, rngs: nnx.Rngs
    ):
        """Raises UserError for heads that do not divide the width, and for too long a prompt.

        Args:
            clip: supplies widths, token embeddings and the ids of SOT and EOT.
            class_ids: token ids of the class words, authentic first; any number per word.
            options: `model` of a configuration.
        """
        text_width = clip.config.text.hidden_size
        vision_width = clip.config.vision.hidden_size
        self.variant, num_heads = options.prompts, options.attention_heads
        self.uses_edges = self.variant.startswith("ecpl")
        num_context = 0 if self.variant == "fixed" else options.prompt_length
        num_edges = len(options.taps) if self.uses_edges else 0
        longest = max(len(ids) for ids in class_ids)
        limit = clip.config.text.max_position_embeddings
        total = 2 + num_context + num_edges + longest
        if total > limit:
            raise UserError(
                f"The prompt has {total} tokens (context {num_context}, edge tokens {num_edges}, "
                f"class word {longest}, start and end); this CLIP reads at most {limit}. "
                "Lower config.model.prompt_length."
            )
        if self.uses_edges and text_width % num_heads:
            raise UserError(
                f"config.model.attention_heads is {num_heads}, which does not divide the text "
                f"width of this CLIP, {text_width}."
            )
        # Behind a shorter class word EOT is repeated: the text tower is causal and never sees it.
        padded = [[*ids, *[clip.eot_id] * (longest + 1 - len(ids))] for ids in class_ids]
        self.class_ids = tuple(tuple(ids) for ids in padded)
        self.eot_positions = tuple(1 + num_context + num_edges + len(ids) for ids in class_ids)

        if num_context:
            shape = (len(class_ids), num_context, text_width)
            self.context = Trainable(0.02 * jax.random.normal(rngs.params(), shape))
        if self.variant == "cocoop":
            hidden = max(1, vision_width // _COCOOP_REDUCTION)
            self.meta_in = Trainable(lecun_stacked(rngs, (vision_width, hidden)))
            self.meta_in_bias = Trainable(jnp.zeros((hidden,)))
            self.meta_out = Trainable(lecun_stacked(rngs, (hidden, text_width)))
            self.meta_out_bias = Trainable(jnp.zeros((text_width,)))
        if self.uses_edges:
            self.edge_tokens = EdgeTokens(num_edges, vision_width, text_width, num_heads, rngs)

    def __call__(
        self, clip: CLIP, patches: Array, cls: Array, edge_map: Array, valid: Array
    ) -> tuple[Array, Array]:
        """Prompt embeddings [B,2,N,d_t] float32 and the position of EOT per class, int32 [2].

        Args: as in `EdgeTokens`: patches [L,B,T,d_v], cls [B,d_v], edge_map and valid [B,T].
        """
        batch = cls.shape[0]
        sot = clip.text.embed(jnp.asarray([clip.sot_id])).astype(jnp.float32)
        words = clip.text.embed(jnp.asarray(self.class_ids)).astype(jnp.float32)
        num_classes, _, width = words.shape

        parts = [jnp.broadcast_to(sot, (batch, num_classes, 1, width))]
        if self.variant != "fixed":
            context = self.context[...][None]
            if self.variant == "cocoop":
                hidden = cls.astype(jnp.float32) @ self.meta_in[...] + self.meta_in_bias[...]
                shift = jax.nn.relu(hidden) @ self.meta_out[...] + self.meta_out_bias[...]
                context = context + shift[:, None, None]
            parts.append(jnp.broadcast_to(context, (batch, *context.shape[1:])))
        if self.uses_edges:
            if self.variant == "ecpl_no_edge":
                edge_map = jnp.ones_like(edge_map)
            norm = jnp.mean(jnp.linalg.norm(words[:, 0], axis=-1))
            tokens = norm * self.edge_tokens(patches, cls, edge_map, valid)
            parts.append(jnp.broadcast_to(tokens[:, None], (batch, num_classes, *tokens.shape[1:])))
        parts.append(jnp.broadcast_to(words, (batch, *words.shape)))
        return jnp.concatenate(parts, axis=2), jnp.asarray(self.eot_positions, jnp.int32)
