"""The small CLIP, how it starts, and its image-text objective."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from data_pipelines.generator.captions import HISTORY
from sapl_jax.clip.blocks import l2_normalize
from sapl_jax.clip.config import CLIPConfig, TextConfig, VisionConfig
from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.demo.captioned_batches import LOCAL, Batch
from sapl_jax.models.sapl import normalize_pixels

_NOISE_FLOOR = 1e-2  # variance of normalised pixels below which a component is not amplified
_ENERGY = 1.5  # gain of the first block's squares
MAX_SCALE = 50.0  # CLIP's bound is 100; ours keeps the heat maps' softmax softer


def small_config(vocab_size: int, canvas: int, patch: int, width: int = 128) -> CLIPConfig:
    """The demo's CLIP: four vision blocks of `width`, three text blocks of width 128."""
    vision = VisionConfig(width, 4 * width, 4, 4, patch_size=patch, image_size=canvas)
    text = TextConfig(
        128, 512, 3, 4, vocab_size=vocab_size, max_position_embeddings=40,
        bos_token_id=vocab_size - 2, eos_token_id=vocab_size - 1,
    )  # fmt: skip
    return CLIPConfig(vision, text, projection_dim=128)


def build_clip(config: CLIPConfig, pixels: np.ndarray, seed: int) -> CLIP:
    """A CLIP that starts with an eye for traces; every weight is trained afterwards.

    The faint high frequencies of a patch drown in its brightness, and the first layer norm removes
    its energy. So
    - the patch embedding starts as whitened principal components, coarse and fine, of photographs,
      `pixels` uint8 [N,S,S,3];
    - positions start large: a constant part that lets energy survive the layer norm;
    - a part of the first block's MLP starts as q(ax) + q(-ax) = ax tanh(...), about |x|.
    """
    clip = CLIP(config, CLIPSource("pretraining"), jnp.float32, nnx.Rngs(seed))
    rng, width = np.random.default_rng(seed), config.vision.hidden_size
    vision, patch = clip.vision, config.vision.patch_size
    vision.patch_kernel.set_value(jnp.asarray(_components(rng, pixels, patch, width)))
    vision.positions.set_value(vision.positions[...] * 35)
    fc1, fc2 = (np.array(layer.kernel[...]) for layer in (vision.blocks.fc1, vision.blocks.fc2))
    out = rng.standard_normal((width, width)) / np.sqrt(width)
    for part, sign in ((np.s_[:width], 1), (np.s_[width : 2 * width], -1)):
        fc1[0, :, part] = sign * _ENERGY * np.eye(width)
        fc2[0, part] = out
    vision.blocks.fc1.kernel.set_value(jnp.asarray(fc1))
    vision.blocks.fc2.kernel.set_value(jnp.asarray(fc2))
    # Words that start nearly alike would take long to tell apart.
    clip.text.token_embedding.set_value(clip.text.token_embedding[...] * 25)
    return clip


def _components(rng: np.random.Generator, pixels: np.ndarray, patch: int, width: int) -> np.ndarray:
    """Whitened principal components of patches: the first third, and others spread over the rest.

    Returns float32 [patch, patch, 3, width].
    """
    grid = pixels.shape[1] // patch
    normed = np.asarray(normalize_pixels(jnp.asarray(pixels[:400, : grid * patch, : grid * patch])))
    patches = normed.reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3)
    patches = patches.reshape(-1, patch * patch * 3)
    patches = patches[rng.permutation(len(patches))[:30000]]
    variance, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    variance, vectors = variance[::-1], vectors[:, ::-1]
    coarse = width // 3
    fine = np.linspace(coarse, len(variance) - 1, width - coarse).astype(int)
    chosen = np.concatenate([np.arange(coarse), fine])
    kernel = vectors[:, chosen] / np.sqrt(variance[chosen] + _NOISE_FLOOR)
    return kernel.reshape(patch, patch, 3, width).astype(np.float32)


def pretraining_loss(
    clip: CLIP,
    batch: Batch,
    phrases: jax.Array,
    weights: tuple[float, float],
    properties: Sequence[str] = LOCAL,
    reach: int = 0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Image-text contrast of patches with phrases and of images with captions.

    Patches: at every block, each patch, projected as SAPL projects it, has to be closest to the
    phrase that is true of its photograph, among the `phrases` of the same property: int32 [W,N],
    those of the words of `properties` in one template. Images: CLIP's own loss between whole images
    and captions, over the crops of one photograph. weights: of the two, in this order.
    reach: patches see only patches so near (`neighbour_attention`); 0: everything.

    Returns:
        The loss and its parts: "patches", "images", and "accuracy" [properties, blocks].
    """
    depth = clip.config.vision.num_hidden_layers
    pixels, taps = normalize_pixels(jnp.asarray(batch.image)), tuple(range(1, depth + 1))
    features = clip.vision(pixels, taps, reach=reach)
    normed = clip.vision.post_norm(features.taps[:, :, 1:])
    patches = l2_normalize(clip.visual_projection(normed))
    scale = jnp.exp(jnp.minimum(clip.logit_scale[...], jnp.log(MAX_SCALE)))
    logits = scale * jnp.einsum("lbtp,wp->lbtw", patches, clip.encode_text(phrases))
    losses, accuracies, start = [], [], 0
    for name in properties:
        part = logits[..., start : start + len(HISTORY[name])]
        start += len(HISTORY[name])
        word = jnp.asarray(batch.history)[..., list(HISTORY).index(name)]
        label = jnp.broadcast_to(word, part.shape[:-1])
        losses.append(jnp.mean(optax.softmax_cross_entropy_with_integer_labels(part, label)))
        accuracies.append(jnp.mean(jnp.argmax(part, -1) == label, axis=(1, 2)))
    patch_loss = jnp.mean(jnp.stack(losses))

    image = l2_normalize(clip.visual_projection(features.pooled))
    caption = clip.encode_text(jnp.asarray(batch.caption))
    pairs = scale * image @ caption.T
    weight = batch.single / jnp.maximum(jnp.sum(batch.single), 1)
    diagonals = [jnp.diag(jax.nn.log_softmax(pairs, axis=axis)) for axis in (0, 1)]
    image_loss = -jnp.sum(weight * (diagonals[0] + diagonals[1])) / 2
    parts = {"patches": patch_loss, "images": image_loss, "accuracy": jnp.stack(accuracies)}
    return weights[0] * patch_loss + weights[1] * image_loss, parts
