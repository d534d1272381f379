"""What the heads of ECPL and HECL share: how they are initialised, and the unit length."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def lecun_stacked(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """LeCun-normal kernels [..., in, out], float32; leading axes are independent kernels."""
    batch_axes = tuple(range(len(shape) - 2))
    initializer: Callable[..., Array] = nnx.initializers.lecun_normal(batch_axis=batch_axes)
    return initializer(rngs.params(), shape, jnp.float32)


def l2_normalize(x: Array) -> Array:
    """`x` [..., D] divided by its norm over the last axis, in float32; zero stays zero.

    The gradient at zero is zero rather than undefined.
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
