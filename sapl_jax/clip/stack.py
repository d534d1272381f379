"""A stack of blocks with parameters on a leading depth axis, run by `jax.lax.scan`.

One traced block serves every depth, so compiles stay short and the parameter tree has few leaves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.attention import LOGSUMEXP
from sapl_jax.clip.config import TowerConfig
from sapl_jax.clip.layers import LINEAR, MLP, Block
from sapl_jax.clip.variables import LoRAParam
from sapl_jax.errors import UserError

# What the backward pass computes again, from nothing to all; norms, activations and attention
# weights are computed again at every level.
_POLICIES = {
    "none": jax.checkpoint_policies.save_only_these_names(LINEAR, MLP, LOGSUMEXP),
    "mlp": jax.checkpoint_policies.save_only_these_names(LINEAR, LOGSUMEXP),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}
LEVELS = tuple(_POLICIES)


class Recompute(NamedTuple):
    """How the backward pass gets what it needs of the blocks.

    Attributes:
        level: which of the linear layers' results are computed again rather than kept: "none",
            "mlp" (the wide first one of each MLP), "blocks" (all: only each block's input is kept).
        unroll: one block after the other instead of a scan: kept results stay where they were
            written; a scan copies them into a stack and out of it. Compiles longer.
    """

    level: str = "none"
    unroll: bool = False


KEEP = Recompute()


def make_blocks(config: TowerConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> Block:
    """All randomly initialised blocks of a tower as one `Block` of stacked parameters."""

    @nnx.split_rngs(splits=config.num_hidden_layers)
    @nnx.vmap
    def create(rngs: nnx.Rngs) -> Block:
        return Block(
            features=config.hidden_size,
            hidden=config.intermediate_size,
            heads=config.num_attention_heads,
            depth=config.num_hidden_layers,
            activation=config.hidden_act,
            eps=config.layer_norm_eps,
            dtype=dtype,
            rngs=rngs,
        )

    return create(rngs)


def run_blocks(
    blocks: Block, x: jax.Array, taps: Sequence[int], *, causal: bool, recompute: Recompute
) -> tuple[list[jax.Array], jax.Array]:
    """Runs all blocks and keeps the hidden states that `taps` names.

    Args:
        blocks: stacked blocks (see `make_blocks`).
        x: [B, T, D], the input of the first block.
        taps: which hidden states to keep: k is the output of block k, 0 is `x` itself.
        causal: whether the attention is causal.
        recompute: what of each block is computed again in the backward pass.

    Returns:
        The tapped states in the order of `taps`, and the last hidden state. Each [B, T, D].

    Raises:
        UserError: a tap is negative or beyond the depth.
    """
    depth = blocks.norm1.scale.shape[0]
    wrong = [tap for tap in taps if not 0 <= tap <= depth]
    if wrong:
        raise UserError(
            f"taps {wrong} do not exist: this tower has {depth} blocks, so taps lie in 0..{depth}. "
            "Choose taps within the depth of the CLIP model, or a deeper model."
        )
    kept = {0: x}
    stops = sorted({tap for tap in taps if tap > 0} | {depth})
    start = 0
    for stop in stops:
        x = _run_segment(blocks, x, start, stop, causal, recompute)
        kept[stop] = x
        start = stop
    return [kept[tap] for tap in taps], x


def _run_segment(
    blocks: Block, x: jax.Array, start: int, stop: int, causal: bool, recompute: Recompute
) -> jax.Array:
    graphdef, state = nnx.split(blocks)
    lora, frozen = nnx.split_state(state, LoRAParam, nnx.Param)

    # The frozen weights are closed over and indexed inside the step: as scanned inputs, each
    # segment's slice of them would be a copy. The checkpoint policy keeps what indexing gives out
    # of the residuals, where it would be a second copy of all weights.
    def step(h: jax.Array, scanned: tuple[jax.Array, nnx.State]) -> tuple[jax.Array, None]:
        index, lora_of_block = scanned
        frozen_of_block = jax.tree.map(
            lambda w: jax.lax.dynamic_index_in_dim(w, index, keepdims=False), frozen
        )
        block = nnx.merge(graphdef, lora_of_block, frozen_of_block)
        return block(h, causal=causal), None

    # By name rather than "all products": LoRA's two would each be kept beside their sum.
    policy = _POLICIES[recompute.level]
    lora_of_segment = jax.tree.map(lambda w: w[start:stop], lora)
    scanned = (jnp.arange(start, stop), lora_of_segment)
    if recompute.unroll:
        checkpointed = jax.checkpoint(step, policy=policy)
        for index in range(stop - start):
            x = checkpointed(x, jax.tree.map(lambda w, i=index: w[i], scanned))[0]
        return x
    # A scan keeps forward and backward apart, so the costly barrier against CSE is not needed.
    checkpointed = jax.checkpoint(step, policy=policy, prevent_cse=False)
    return jax.lax.scan(checkpointed, x, scanned)[0]
