"""From patch-prompt similarity to the image score and the heat map."""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from data_pipelines.listing import TAMPERED  # Also the index of the "fake" prompt.


def tampered_margin(similarity: Array, scale: Array) -> Array:
    """By how much each patch looks tampered: [B,T] float32 logits.

    scale * (s_fake - s_real), averaged over the taps, of similarities [L,B,T,2], the cosines of
    patch and prompt, authentic first; `scale`: CLIP's logit scale (about 100).
    """
    return jnp.mean(scale * (similarity[..., TAMPERED] - similarity[..., 1 - TAMPERED]), axis=0)


def tampered_heat(similarity: Array, scale: Array, taps: str) -> Array:
    """Patch heat map [B,T] float32 in [0,1]: the probability of "fake".

    The softmax over the classes of the logits' mean over the taps (`taps` "logits"), or the mean of
    the taps' softmax ("probabilities"). Args: as in `tampered_margin`.
    """
    if taps == "probabilities":
        each = jax.vmap(lambda s: jax.nn.sigmoid(tampered_margin(s[None], scale)))(similarity)
        return jnp.mean(each, axis=0)
    return jax.nn.sigmoid(tampered_margin(similarity, scale))


def pooled_logits(
    similarity: Array, scale: Array, valid: Array, share: float, mute: Array | None = None
) -> Array:
    """Image logits [B,2] float32 from the patches that look most tampered.

    The image's margin is the mean of the largest ones of its patches (`tampered_margin`), and its
    two logits are minus and plus half of it. Training on them gives a tampered picture a few
    tampered patches and an authentic one none, which is what the heat map's threshold of 0.5 asks
    for. Ours; the paper classifies by the CLS feature.

    Args: as in `tampered_margin`; `valid` [B,T] bool: other patches do not count; `share` of an
        image's valid patches, in (0,1]: at least one patch is taken; `mute` [B,T] bool: patches
        whose margin counts as 0 where it is higher.
    """
    margin = tampered_margin(similarity, scale)
    margin = margin if mute is None else jnp.where(mute, jnp.minimum(margin, 0), margin)
    most, _ = jax.lax.top_k(jnp.where(valid, margin, -jnp.inf), math.ceil(share * valid.shape[1]))
    count = jnp.maximum(jnp.ceil(share * jnp.sum(valid, axis=1, keepdims=True)), 1)
    taken = (jnp.arange(most.shape[1])[None] < count) & jnp.isfinite(most)
    total = jnp.sum(jnp.where(taken, most, 0.0), axis=1)
    half = 0.5 * total / jnp.maximum(jnp.sum(taken, axis=1), 1)
    return jnp.stack([-half, half], axis=-1)


def along_colours(
    heat: Array, image: Array, valid: Array, telling: Array, sigma: float, colours: float
) -> Array:
    """Patch maps [B,n,n] float32 smoothed along the picture: a joint bilateral filter, twice.

    A cell takes the mean of the picture's cells, weighted by exp(-d^2 / 2 sigma^2 - c^2 / 2
    colours^2): d is the distance in pixels of the canvas, c that of the cells' mean colours (luma,
    red less green, and half of both less blue, of RGB in [0,1]). So heat spreads over what looks
    like one thing and ends at its outline. After Petschnigg et al. 2004; for heat maps ours.

    Args: heat [B,n,n] float32; image [B,C,C,3] uint8; valid [B,g,g] bool, patches of the picture,
        n = g or 2g; telling [B,g,g] bool, those whose heat says something. Other cells give
        nothing, nor does the half that moved views push out.
    """
    (batch, side), canvas, grid = heat.shape[:2], image.shape[1], valid.shape[1]
    within = np.arange(canvas) * side // canvas == np.arange(side)[:, None]
    mean = (within / within.sum(1, keepdims=True)).astype(np.float32)  # [n,C], of pixels in cells
    red, green, blue = jnp.einsum("yp,bpqk,xq->kbyx", mean, image / 255, mean, precision="highest")
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    colour = jnp.stack([luma, red - green, (red + green) / 2 - blue], axis=-1) / colours
    place = np.moveaxis(np.indices((side, side), np.float32), 0, -1) * (canvas / side / sigma)
    places = jnp.broadcast_to(place, (batch, side, side, 2))
    features = jnp.concatenate([places, colour], axis=-1).reshape(batch, -1, 5)
    apart = jnp.sum((features[:, :, None] - features[:, None]) ** 2, axis=-1)
    own = np.arange(side) * grid // side
    moved = np.minimum((np.arange(side) + side // grid - 1) // (side // grid), grid - 1)
    outside = ~(valid[:, moved][:, :, moved] & telling[:, own][:, :, own])
    # Finite, as the thinnest pictures have no valid patch at all.
    weights = jax.nn.softmax(-(apart / 2 + 1e4 * outside.reshape(batch, 1, -1)))
    once = jnp.matmul(weights, heat.reshape(batch, -1, 1), precision="highest")
    return jnp.matmul(weights, once, precision="highest").reshape(heat.shape)


def heat_map_of_picture(
    patch_map: np.ndarray,
    valid: np.ndarray,
    *,
    canvas: int,
    resized: tuple[int, int],
    original: tuple[int, int],
    sigma: float,
) -> np.ndarray:
    """The heat map at the picture's own size, float32 [H,W] in [0,1].

    Bilinear to the canvas, cropped to the picture, smoothed, resized (bilinear; area when the
    picture is smaller than its resized form). Patches of the padding take the value of the nearest
    patch of the picture first, so that they do not bleed into its border.

    Args:
        patch_map: [n,n] float probabilities, n = g, or 2g with `model.test_views`.
        valid: [g,g] bool, patches of the picture, at the top left.
        canvas: side of the square canvas in pixels.
        resized: height and width of the picture on the canvas.
        original: height and width of the picture as the user gave it.
        sigma: of the Gaussian, in canvas pixels; 0 turns it off.
    """
    # Of the last patch only the first cell counts: moved views push its second half out. A very
    # long picture can be thinner than half a patch: its first row or column stays.
    grid, cells = len(patch_map), len(patch_map) // len(valid)
    rows = max(1, cells * int(valid.any(axis=1).sum()) - cells + 1)
    columns = max(1, cells * int(valid.any(axis=0).sum()) - cells + 1)
    inside = patch_map[:rows, :columns].astype(np.float32)
    if min(inside.shape) > 1 and not valid[valid.any(axis=1)][-1, valid.any(axis=0)][-1]:
        # Two strips that are half the picture's have a corner that is not.
        inside[-1, -1] = (inside[-2, -1] + inside[-1, -2]) / 2
    whole = np.pad(inside, ((0, grid - rows), (0, grid - columns)), mode="edge")
    on_canvas = cv2.resize(whole, (canvas, canvas), interpolation=cv2.INTER_LINEAR)
    picture = np.ascontiguousarray(on_canvas[: resized[0], : resized[1]], np.float32)
    if sigma > 0:
        cv2.GaussianBlur(picture, (0, 0), sigma, dst=picture, borderType=cv2.BORDER_REFLECT_101)
    shrinks = original[0] < resized[0] or original[1] < resized[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    heat_map = cv2.resize(picture, (original[1], original[0]), interpolation=interpolation)
    return np.clip(heat_map, 0.0, 1.0, dtype=np.float32)


def stretched(heat_map: np.ndarray, level: float) -> np.ndarray:
    """Stretches a picture's finished map to [0,1] in place, `level` of its ninth decile at 0.5.

    x = (h - min h) / (max h - min h), then x to the power of log 0.5 / log(level * d), d the ninth
    decile of x: where the picture looks most tampered, however much the whole of it does, which the
    score says. The decile, as a larger picture has a higher maximum. Ours.

    Args:
        heat_map: [H,W] float32 in [0,1]; a map of one value becomes 0.
        level: between 0 and 1; 0: the map stays as it is.
    """
    if level:
        heat_map -= heat_map.min()
        highest = heat_map.max()
        heat_map /= highest if highest > 1e-4 else np.float32(np.inf)  # Less is rounding.
        down, right = (-(-side // 1024) for side in heat_map.shape)  # Sorting takes time.
        middle = max(level * np.quantile(heat_map[::down, ::right], 0.9), 1e-6)
        np.power(heat_map, np.float32(np.log(0.5) / np.log(middle)), out=heat_map)
    return heat_map
