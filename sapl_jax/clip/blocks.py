"""The blocks of a CLIP transformer: layers, variable types that say what trains, and the stack.

`nnx.split(model, Trainable, nnx.Param)` gives the trainable and the frozen tree. A stack has its
parameters on a leading depth axis and runs by `jax.lax.scan`: one traced block serves every depth,
so compiles stay short and the parameter tree has few leaves.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from sapl_jax.clip.attention import FUSED, LOGSUMEXP
from sapl_jax.clip.config import ACTIVATIONS, TowerConfig


class Trainable(nnx.Variable):
    """A parameter that training changes. Kept in float32 whatever the compute dtype."""


class LoRAParam(Trainable):
    """One factor of a low-rank update: A [..., in, rank] or B [..., rank, out]."""


# Names for checkpoint policies: of what every `Linear` gives out, which is costly to compute again,
# of what attention gives out after its projection, and of what the wide first layer of an MLP gives
# out, which takes as much memory as the others.
LINEAR, ATTENDED, MLP = "linear", "attended", "mlp"

# Attention of queries, keys and values [B, T, H, d] -> [B, T, H, d].
Attend = Callable[[Array, Array, Array], Array]


def normal(
    rngs: nnx.Rngs | None, shape: tuple[int, ...], std: float, dtype: jnp.dtype
) -> nnx.Param:
    """A frozen parameter drawn from N(0, std^2); zeros without `rngs`, which are quick to trace."""
    if rngs is None:
        return nnx.Param(jnp.zeros(shape, dtype))
    return nnx.Param((jax.random.normal(rngs.params(), shape) * std).astype(dtype))


def lecun_stacked(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """LeCun-normal kernels [..., in, out], float32; leading axes are independent kernels."""
    batch_axes = tuple(range(len(shape) - 2))
    initializer: Callable[..., Array] = nnx.initializers.lecun_normal(batch_axis=batch_axes)
    return initializer(rngs.params(), shape, jnp.float32)


def l2_normalize(x: Array) -> Array:
    """`x` [..., D] over its norm along the last axis, float32; zero stays zero, as its gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def layer_norm(features: int, eps: float, dtype: jnp.dtype) -> nnx.LayerNorm:
    """Layer normalisation over the last axis, computed in float32, in its parameters' dtype."""
    # The fast variance rounds small ones off. Nothing is drawn: ones and zeros.
    return nnx.LayerNorm(
        features, epsilon=eps, use_fast_variance=False, param_dtype=dtype, rngs=nnx.Rngs(0)
    )


class Linear(nnx.Module):
    """y = x W + b, plus (x A) B * scale once LoRA is attached. W: [in, out], in the input's dtype.

    A and B are float32 masters and are cast to the input's dtype for the product.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs | None,
        bias: bool = True,
    ):
        self.kernel = normal(rngs, (n_in, n_out), std, dtype)
        self.bias = nnx.data(nnx.Param(jnp.zeros((n_out,), dtype)) if bias else None)
        self.lora_a: LoRAParam | None = nnx.data(None)
        self.lora_b: LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0

    def __call__(self, x: Array, name: str = LINEAR) -> Array:
        """x: [..., in] -> [..., out], called `name` for checkpoint policies."""
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if self.lora_a is not None and self.lora_b is not None:
            low = x @ self.lora_a[...].astype(x.dtype)
            y = y + (low @ self.lora_b[...].astype(x.dtype)) * self.lora_scale
        return checkpoint_name(y, name)


class Block(nnx.Module):
    """One pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, config: TowerConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None):
        features, hidden, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        # The standard deviations of the Hugging Face library's CLIP initialisation.
        std_in = features**-0.5 * (2 * config.num_hidden_layers) ** -0.5
        std_out = features**-0.5
        self.heads, self.activation = config.num_attention_heads, config.hidden_act
        self.norm1 = layer_norm(features, eps, dtype)
        self.q = Linear(features, features, std_in, dtype, rngs)
        self.k = Linear(features, features, std_in, dtype, rngs)
        self.v = Linear(features, features, std_in, dtype, rngs)
        self.out = Linear(features, features, std_out, dtype, rngs)
        self.norm2 = layer_norm(features, eps, dtype)
        self.fc1 = Linear(features, hidden, (2 * features) ** -0.5, dtype, rngs)
        self.fc2 = Linear(hidden, features, std_in, dtype, rngs)

    def __call__(self, x: Array, attend: Attend) -> Array:
        """x: [B, T, D] -> [B, T, D]; `attend`: its attention."""
        h = self.norm1(x)
        q, k, v = (self._split_heads(project(h)) for project in (self.q, self.k, self.v))
        x = x + self.out(attend(q, k, v).reshape(x.shape), ATTENDED)
        h = self.norm2(x)
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(h, MLP)))

    def with_values(self, x: Array, patches: Array, attend: Attend) -> tuple[Array, Array]:
        """One block of the V-V path beside the usual one: both [B, T, D].

        `patches` collects softmax(v v^T) v of every block and skips the MLPs, as in CLIP Surgery
        (arXiv 2304.05653) and AnomalyCLIP (arXiv 2310.18961).
        """
        v = self._split_heads(self.v(self.norm1(x)))
        patches = patches + self.out(attend(v, v, v).reshape(x.shape))
        return self(x, attend), patches

    def _split_heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


# What the backward pass computes again, from nothing to all; norms, activations and attention
# weights are computed again at every level. By name rather than "all products": LoRA's two would
# each be kept beside their sum.
_KEPT: dict[str, tuple[str, ...]] = {
    "none": (LINEAR, LOGSUMEXP, ATTENDED, MLP), "mlp": (LINEAR, LOGSUMEXP, ATTENDED), "blocks": (),
}  # fmt: skip
LEVELS = tuple(_KEPT)


class Recompute(NamedTuple):
    """How the backward pass gets what it needs of the blocks."""

    # Which of the linear layers' results are computed again rather than kept: "none", "mlp" (the
    # wide first one of each MLP), "blocks" (all: only each block's input is kept).
    level: str = "none"
    # For GPUs. One block after the other instead of a scan: kept results stay where they were
    # written; a scan copies them into a stack and out of it. cuDNN's attention is not computed
    # again. Compiles longer.
    unroll: bool = False


KEEP = Recompute()
# Hidden states: the usual path, or it and the V-V path.
_State = tuple[Array, ...]


def make_blocks(config: TowerConfig, dtype: jnp.dtype, rngs: nnx.Rngs | None) -> Block:
    """All blocks of a tower as one `Block` of stacked parameters, drawn as `normal` does."""
    depth = config.num_hidden_layers

    @nnx.vmap(axis_size=depth)
    def create(rngs: nnx.Rngs | None) -> Block:
        return Block(config, dtype, rngs)

    return create(rngs) if rngs is None else nnx.split_rngs(splits=depth)(create)(rngs)


def run_blocks(
    blocks: Block, x: Array, taps: Sequence[int], attend: Attend, recompute: Recompute, values: bool
) -> tuple[list[Array], Array]:
    """Runs stacked blocks on `x` [B, T, D] and keeps the hidden states that `taps` names.

    Args:
        taps: which hidden states to keep: k is the output of block k (at most the depth), 0 is `x`.
        attend: the attention of every block.
        recompute: what of each block is computed again in the backward pass.
        values: the tapped states are those of the V-V path (`Block.with_values`), which leaves the
            usual one at the block of the first tap above 0.

    Returns:
        The tapped states in the order of `taps`, and the last hidden state. Each [B, T, D].
    """
    depth = blocks.q.kernel.shape[0]
    kept, start = {0: x}, 0
    state: _State = (x,)
    for stop in sorted({tap for tap in taps if tap > 0} | {depth}):
        if values and start == 0:
            (x,) = _run_segment(blocks, state, 0, stop - 1, attend, recompute)
            start, state = stop - 1, (x, x)
        state = _run_segment(blocks, state, start, stop, attend, recompute)
        kept[stop], start = state[-1], stop
    return [kept[tap] for tap in taps], state[0]


def _run_segment(
    blocks: Block, state: _State, start: int, stop: int, attend: Attend, recompute: Recompute
) -> _State:
    graphdef, weights = nnx.split(blocks)
    lora, frozen = nnx.split_state(weights, LoRAParam, nnx.Param)

    # The frozen weights are closed over and indexed inside the step: as scanned inputs, each
    # segment's slice of them would be a copy. The checkpoint policy keeps what indexing gives out
    # of the residuals, where it would be a second copy of all weights.
    def step(h: _State, scanned: tuple[Array, nnx.State]) -> tuple[_State, None]:
        index, lora_of_block = scanned
        frozen_of_block = jax.tree.map(
            lambda w: jax.lax.dynamic_index_in_dim(w, index, keepdims=False), frozen
        )
        block = nnx.merge(graphdef, lora_of_block, frozen_of_block)
        return (block.with_values(*h, attend) if len(h) == 2 else (block(h[0], attend),)), None

    kept = set(_KEPT[recompute.level])
    if kept and recompute.unroll:
        kept.add(FUSED)
        if recompute.level == "mlp":  # One product gives it again from what cuDNN keeps.
            kept.discard(ATTENDED)
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    # A scan keeps forward and backward apart, so the costly barrier against CSE is not needed.
    checkpointed = jax.checkpoint(step, policy=policy, prevent_cse=recompute.unroll)
    scanned = (jnp.arange(start, stop), jax.tree.map(lambda w: w[start:stop], lora))
    if not recompute.unroll:
        return jax.lax.scan(checkpointed, state, scanned)[0]
    for index in range(stop - start):
        state = checkpointed(state, jax.tree.map(lambda w, i=index: w[i], scanned))[0]
    return state
