"""A stack of blocks with parameters on a leading depth axis, run by `jax.lax.scan`.

One traced block serves every depth, so compiles stay short and the parameter tree has few leaves.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.attention import LOGSUMEXP
from sapl_jax.clip.config import TowerConfig
from sapl_jax.clip.layers import LINEAR, Block
from sapl_jax.clip.variables import LoRAParam
from sapl_jax.errors import UserError


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
    blocks: Block,
    x: jax.Array,
    taps: Sequence[int],
    *,
    causal: bool,
    remat: bool,
    values: bool = False,
) -> tuple[list[jax.Array], jax.Array]:
    """Runs all blocks and keeps the hidden states that `taps` names.

    Args:
        blocks: stacked blocks (see `make_blocks`).
        x: [B, T, D], the input of the first block.
        taps: which hidden states to keep: k is the output of block k, 0 is `x` itself.
        causal: whether the attention is causal.
        remat: recompute each block in the backward pass. Otherwise the results of its linear
            layers are kept; norms, activations and attention weights are recomputed either way.
        values: the tapped states are those of the V-V path (`Block.with_values`), which leaves the
            usual one at the block of the first tap above 0.

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
    start, state = 0, (x,)
    for stop in stops:
        if values and start == 0:
            (x,) = _run_segment(blocks, state, 0, stop - 1, causal, remat)
            start, state = stop - 1, (x, x)
        state = _run_segment(blocks, state, start, stop, causal, remat)
        kept[stop] = state[-1]
        start = stop
    return [kept[tap] for tap in taps], state[0]


def _run_segment(
    blocks: Block, state: tuple, start: int, stop: int, causal: bool, remat: bool
) -> tuple:
    graphdef, weights = nnx.split(blocks)
    lora, frozen = nnx.split_state(weights, LoRAParam, nnx.Param)

    # The frozen weights are closed over and indexed inside the step: as scanned inputs, each
    # segment's slice of them would be a copy. The checkpoint policy keeps what indexing gives out
    # of the residuals, where it would be a second copy of all weights.
    def step(h: tuple, scanned: tuple[jax.Array, nnx.State]) -> tuple[tuple, None]:
        index, lora_of_block = scanned
        frozen_of_block = jax.tree.map(
            lambda w: jax.lax.dynamic_index_in_dim(w, index, keepdims=False), frozen
        )
        block = nnx.merge(graphdef, lora_of_block, frozen_of_block)
        return (block.with_values(*h) if len(h) == 2 else (block(*h, causal=causal),)), None

    # By name rather than "all products": LoRA's two would each be kept beside their sum.
    policies = jax.checkpoint_policies
    keep_linear = policies.save_only_these_names(LINEAR, LOGSUMEXP)
    policy = policies.nothing_saveable if remat else keep_linear
    lora_of_segment = jax.tree.map(lambda w: w[start:stop], lora)
    scanned = (jnp.arange(start, stop), lora_of_segment)
    # A scan keeps forward and backward apart, so the costly barrier against CSE is not needed.
    checkpointed = jax.checkpoint(step, policy=policy, prevent_cse=False)
    return jax.lax.scan(checkpointed, state, scanned)[0]
