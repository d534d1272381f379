"""ECPL's edge tokens: one text-width token per tap from soft edges and patch features.

For tap l with patch features F_l, soft edge map M and the image's CLS feature F_cls,

    z_0 = Linear(F_cls),   Z_l = Linear_l(F_l) * M,   token_l = MHSA([z_0; Z_l]) at z_0.

The paper states this form; heads, widths and the zero-initialised output are ours. Only z_0's
query is needed, so the keys and values are never formed: with q = W_q z_0 the score of patch t is
q . W_k (W_l F_t + b_l) M_t = M_t (W_l^T W_k^T q . F_t + b_l . W_k^T q), and the attended value is
the same linear map of one weighted mean of patches. Equal results, linear in the patches, and no
[T, d_t] intermediate. A key bias would cancel in the softmax, so there is none.

A word's embedding is shorter than 1, and Adam lets these outputs outgrow it by far within a few
dozen steps at 1e-5. So they are root mean square normalised with an epsilon of 1, o / sqrt(d_t +
|o|^2), which is near linear at the start and never longer than 1; prompts scale them to a word.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from sapl_jax.clip.attention import product
from sapl_jax.clip.blocks import Trainable, lecun_stacked


class EdgeTokens(nnx.Module):
    """Edge tokens of L taps: patch features [L,B,T,d_v] -> tokens [B,L,d_t]."""

    def __init__(
        self, num_taps: int, vision_width: int, text_width: int, num_heads: int, rngs: nnx.Rngs
    ):
        """`num_heads` must divide `text_width`. All parameters are float32 and stacked by tap."""
        self.num_heads = num_heads
        width = (num_taps, text_width, text_width)
        self.cls_kernel = Trainable(lecun_stacked(rngs, (vision_width, text_width)))
        self.cls_bias = Trainable(jnp.zeros((text_width,)))
        self.patch_kernel = Trainable(lecun_stacked(rngs, (num_taps, vision_width, text_width)))
        self.patch_bias = Trainable(jnp.zeros((num_taps, text_width)))
        self.query_kernel = Trainable(lecun_stacked(rngs, width))
        self.query_bias = Trainable(jnp.zeros((num_taps, text_width)))
        self.key_kernel = Trainable(lecun_stacked(rngs, width))
        self.value_kernel = Trainable(lecun_stacked(rngs, width))
        self.value_bias = Trainable(jnp.zeros((num_taps, text_width)))
        # Zero output: at the start every edge token is zero and the prompts are CoOp's.
        self.out_kernel = Trainable(jnp.zeros(width))
        self.out_bias = Trainable(jnp.zeros((num_taps, text_width)))

    def __call__(self, patches: Array, cls: Array, edge_map: Array, valid: Array) -> Array:
        """Edge tokens [B,L,d_t] float32, of norm below 1.

        Args:
            patches: [L,B,T,d_v] patch features at the taps, any float type.
            cls: [B,d_v] CLS feature of the image.
            edge_map: [B,T] soft edge values in [0,1].
            valid: [B,T] bool; patches outside the picture get no attention.
        """
        num_taps, batch, _, _ = patches.shape
        heads, width = self.num_heads, self.cls_bias.shape[-1]
        edge_map = edge_map.astype(jnp.float32)

        z_cls = cls.astype(jnp.float32) @ self.cls_kernel[...] + self.cls_bias[...]  # [B,e]
        query = jnp.einsum("be,lef->lbf", z_cls, self.query_kernel[...])
        query = query + self.query_bias[...][:, None]
        query = query.reshape(num_taps, batch, heads, width // heads) * (width // heads) ** -0.5
        key_kernel = self.key_kernel[...].reshape(num_taps, width, heads, width // heads)
        # The query seen from the space of Z (text width), then of F (vision width).
        in_text = jnp.einsum("lbhf,lehf->lbhe", query, key_kernel)
        in_vision = jnp.einsum("lbhe,lve->lbhv", in_text, self.patch_kernel[...])

        patch_scores = product("lbhv,lbtv->lbht", in_vision.astype(patches.dtype), patches)
        bias_scores = jnp.einsum("lbhe,le->lbh", in_text, self.patch_bias[...])
        patch_scores = edge_map[None, :, None] * (patch_scores + bias_scores[..., None])
        patch_scores = jnp.where(valid[None, :, None], patch_scores, -jnp.inf)
        cls_score = jnp.einsum("lbhe,be->lbh", in_text, z_cls)[..., None]
        weights = jax.nn.softmax(jnp.concatenate([cls_score, patch_scores], axis=-1), axis=-1)

        edge_weights = weights[..., 1:] * edge_map[None, :, None]  # [L,B,H,T]
        mean_patch = product("lbht,lbtv->lbhv", edge_weights.astype(patches.dtype), patches)
        attended = jnp.einsum("lbhv,lve->lbhe", mean_patch, self.patch_kernel[...])
        attended += jnp.sum(edge_weights, axis=-1)[..., None] * self.patch_bias[...][:, None, None]
        attended += weights[..., :1] * z_cls[None, :, None]

        value_kernel = self.value_kernel[...].reshape(num_taps, width, heads, width // heads)
        values = jnp.einsum("lbhe,lehf->lbhf", attended, value_kernel)
        values = values.reshape(num_taps, batch, width) + self.value_bias[...][:, None]
        tokens = jnp.einsum("lbe,lef->lbf", values, self.out_kernel[...])
        tokens = jnp.swapaxes(tokens + self.out_bias[...][:, None], 0, 1)
        return tokens * jax.lax.rsqrt(width + jnp.sum(tokens**2, axis=-1, keepdims=True))
