"""The pieces of a CLIP transformer block: layer norm, linear with optional LoRA, MLP, block."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from sapl_jax.clip.attention import attention
from sapl_jax.clip.variables import LoRAParam

# Name of what every `Linear` gives out, for checkpoint policies: costly to compute again.
LINEAR = "linear"

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, dtype: jnp.dtype) -> nnx.Param:
    """A frozen parameter drawn from N(0, std^2)."""
    return nnx.Param((jax.random.normal(rngs.params(), shape) * std).astype(dtype))


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, computed in float32, in the input's dtype."""

    def __init__(self, features: int, eps: float, dtype: jnp.dtype):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((features,), dtype))
        self.bias = nnx.Param(jnp.zeros((features,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        h = x.astype(jnp.float32)
        h = h - jnp.mean(h, axis=-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + self.eps)
        h = h * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return h.astype(x.dtype)


class Linear(nnx.Module):
    """y = x W + b, plus (x A) B * scale once LoRA is attached. W: [in, out], in the input's dtype.

    A and B are float32 masters and are cast to the input's dtype for the product.
    """

    def __init__(
        self, n_in: int, n_out: int, std: float, dtype: jnp.dtype, rngs: nnx.Rngs, bias: bool = True
    ):
        self.kernel = normal(rngs, (n_in, n_out), std, dtype)
        self.bias = nnx.data(nnx.Param(jnp.zeros((n_out,), dtype)) if bias else None)
        self.lora_a: LoRAParam | None = nnx.data(None)
        self.lora_b: LoRAParam | None = nnx.data(None)
        self.lora_scale = 0.0

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if self.lora_a is not None and self.lora_b is not None:
            low = checkpoint_name(x @ self.lora_a[...].astype(x.dtype), LINEAR)
            y = y + (low @ self.lora_b[...].astype(x.dtype)) * self.lora_scale
        return checkpoint_name(y, LINEAR)


class Block(nnx.Module):
    """One pre-norm transformer block: x + attention(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(
        self,
        features: int,
        hidden: int,
        heads: int,
        depth: int,
        activation: str,
        eps: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        # The standard deviations of the Hugging Face library's CLIP initialisation.
        std_in = features**-0.5 * (2 * depth) ** -0.5
        std_out = features**-0.5
        self.heads = heads
        self.activation = activation
        self.norm1 = LayerNorm(features, eps, dtype)
        self.q = Linear(features, features, std_in, dtype, rngs)
        self.k = Linear(features, features, std_in, dtype, rngs)
        self.v = Linear(features, features, std_in, dtype, rngs)
        self.out = Linear(features, features, std_out, dtype, rngs)
        self.norm2 = LayerNorm(features, eps, dtype)
        self.fc1 = Linear(features, hidden, (2 * features) ** -0.5, dtype, rngs)
        self.fc2 = Linear(hidden, features, std_in, dtype, rngs)

    def __call__(self, x: jax.Array, *, causal: bool) -> jax.Array:
        """x: [B, T, D] -> [B, T, D]."""
        h = self.norm1(x)
        q, k, v = (self._split_heads(project(h)) for project in (self.q, self.k, self.v))
        x = x + self.out(attention(q, k, v, causal=causal).reshape(x.shape))
        h = self.norm2(x)
        return x + self.fc2(ACTIVATIONS[self.activation](self.fc1(h)))

    def with_values(self, x: jax.Array, patches: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One block of the V-V path beside the usual one, not causal: both [B, T, D].

        `patches` collects softmax(v v^T) v of every block and skips the MLPs, as in CLIP Surgery
        (arXiv 2304.05653) and AnomalyCLIP (arXiv 2310.18961).
        """
        v = self._split_heads(self.v(self.norm1(x)))
        patches = patches + self.out(attention(v, v, v, causal=False).reshape(x.shape))
        return self(x, causal=False), patches

    def _split_heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)
