"""SAPL assembled: CLIP with LoRA, the prompts (ECPL) and the contrast heads (HECL)."""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from ml_collections import ConfigDict, FrozenConfigDict

from data_pipelines.preprocess import PADDING
from sapl_jax.clip.attention import product
from sapl_jax.clip.blocks import KEEP, Recompute, Trainable, l2_normalize
from sapl_jax.clip.config import LoRAConfig
from sapl_jax.clip.loading import open_clip
from sapl_jax.clip.model import CLIP
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.errors import UserError
from sapl_jax.models.hecl import ProjectionHeads
from sapl_jax.models.localization import TAMPERED, along_colours, pooled_logits, tampered_heat
from sapl_jax.models.prompts import Prompts

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Views of a canvas: moved down and to the right by half a patch or not, upright or turned over.
_VIEWS = tuple(itertools.product((0, 1), (0, 1), (1, -1)))
Arrays = tuple[Array, ...]


class Outputs(NamedTuple):
    """What one forward pass gives; float32, `embeddings` aside."""

    image_logits: Array  # [B,2], authentic first: the mean of `logits`
    # [S,B,2], of each source of a verdict: logit_scale * cos(image, prompt), and pooled from the
    # patches (`pooled_logits`), or one of them.
    logits: Array
    similarity: Array  # [L,B,T,2], cosine of patch and prompt; `tap_affine` changes it
    embeddings: Array  # [L,B,T,P] patch features, joint space, compute dtype, not normalised
    edge_map: Array  # [B,T], the soft edges that were used


class SAPL(nnx.Module):
    """The whole model. Frozen: every `nnx.Param` (CLIP). Trained: every `Trainable`."""

    def __init__(
        self, clip: CLIP, prompts: Prompts, heads: ProjectionHeads | None, options: FrozenConfigDict
    ):
        """`heads`: HECL's own, where it has them; `options`: `model` of a configuration.

        Edges of "another" picture are those of the one half a batch (of this device) further, a
        batch of one has its own: the neighbour may be what this one was made from (`data.pairs`).
        """
        self.clip = clip
        self.prompts = prompts
        self.heads = heads
        self.options = options
        by_tap = len(options.taps), 1, 1, 1
        self.tap_scale = nnx.data(Trainable(jnp.ones(by_tap)) if options.tap_affine else None)
        self.tap_bias = nnx.data(Trainable(jnp.zeros(by_tap)) if options.tap_affine else None)

    @property
    def feature_dim(self) -> int:
        """Width of what HECL contrasts."""
        return self.heads.dim if self.heads else self.clip.config.projection_dim

    @property
    def scale(self) -> Array:
        """The logit scale, float32: the configured one, or CLIP's frozen one, exponentiated."""
        if self.options.logit_scale:
            return jnp.float32(self.options.logit_scale)
        return jnp.exp(self.clip.logit_scale[...].astype(jnp.float32))

    def __call__(
        self,
        image: Array,
        edge_map: Array,
        valid: Array,
        *,
        recompute: Recompute = KEEP,
        reach: int = 0,
        mute: Array | None = None,
    ) -> Outputs:
        """One forward pass.

        Args:
            image: [B,C,C,3] uint8, RGB.
            edge_map: [B,g,g] float, soft edge map per patch.
            valid: [B,g,g] bool, patches inside the picture.
            recompute: what of the vision blocks is computed again in the backward pass.
            reach: of attention between patches; 0: the configuration's.
            mute: [B,T] bool, patches that do not raise pooled logits; None: none.
        """
        batch, options = image.shape[0], self.options
        edge_map, valid = edge_map.reshape(batch, -1), valid.reshape(batch, -1)
        if options.edges == "another":
            edge_map = jnp.roll(edge_map, batch // 2, axis=0) * valid
        features = self.clip.vision(
            normalize_pixels(image), options.taps, recompute, options.value_attention,
            reach or options.attention_reach,
        )  # fmt: skip
        # The frozen final layer norm puts all depths on one scale before they are compared.
        normed = self.clip.vision.post_norm(features.taps[:, :, 1:])
        embeddings = self.clip.visual_projection(normed)

        prompts, eot = self.prompts(self.clip, normed, features.pooled, edge_map, valid)
        num_classes, length, width = prompts.shape[1:]
        # Not `jnp.tile`: the ONNX converter knows it for fixed batch sizes only.
        eot = jnp.broadcast_to(eot, (batch, num_classes)).reshape(-1)
        text = self.clip.text.encode(prompts.reshape(batch * num_classes, length, width), eot)
        text = l2_normalize(text).reshape(batch, num_classes, -1)

        # cos = (P . t) / |P|: the norm is divided out afterwards, so P is never copied.
        products = product("lbtp,bcp->lbtc", embeddings, text.astype(embeddings.dtype))
        squares = jnp.sum(jnp.square(embeddings.astype(jnp.float32)), axis=-1, keepdims=True)
        similarity = products * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
        if self.tap_scale is not None and self.tap_bias is not None:
            similarity = similarity * self.tap_scale[...] + self.tap_bias[...] * jnp.arange(2.0)
        sources = []
        if options.image_logits != "patches":
            image_embedding = l2_normalize(self.clip.visual_projection(features.pooled))
            sources.append(self.scale * jnp.einsum("bp,bcp->bc", image_embedding, text))
        if options.image_logits != "cls":
            sources.append(pooled_logits(similarity, self.scale, valid, options.pooled_share, mute))
        logits = jnp.stack(sources)
        return Outputs(jnp.mean(logits, axis=0), logits, similarity, embeddings, edge_map)


def normalize_pixels(image: Array) -> Array:
    """uint8 [...,3] RGB to CLIP's normalised float32 pixels."""
    return (image.astype(jnp.float32) / 255.0 - jnp.asarray(CLIP_MEAN)) / jnp.asarray(CLIP_STD)


def build_sapl(config: ConfigDict, dtype: jnp.dtype) -> SAPL:
    """The model of a configuration with CLIP's weights; arguments and errors as of `open_sapl`."""
    model, read = open_sapl(config, dtype, whole=True)
    read()
    return model


def open_sapl(
    config: ConfigDict, dtype: jnp.dtype, *, whole: bool = False
) -> tuple[SAPL, Callable[[], None]]:
    """The model of a configuration, its own parts initialised, and what reads CLIP's weights.

    Until that is called they are shapes alone (`open_clip`). `dtype`: compute type, and storage
    type of the frozen weights. Of CLIP's words, those of the prompts alone are kept (in float32
    0.15 GB less on each device with ViT-L/14), which is enough for training, or the `whole` table.

    Raises:
        UserError: for weights that cannot be loaded, taps beyond the depth, and unknown options.
    """
    given = config.clip
    lora = LoRAConfig(given.lora_rank, given.lora_alpha, tuple(given.lora_targets))
    revision, seed = given.revision or None, config.seed
    clip, read = open_clip(given.pretrained, revision=revision, dtype=dtype, lora=lora, seed=seed)
    model = assemble_sapl(clip, class_token_ids(clip, config.model.class_words), config)
    if not whole:
        clip.text.keep({clip.sot_id, *itertools.chain(*model.prompts.class_ids)})
    return model, read


def assemble_sapl(clip: CLIP, class_ids: Sequence[Sequence[int]], config: ConfigDict) -> SAPL:
    """SAPL on a CLIP that is there already; its own parts are initialised from the seed.

    `class_ids`: token ids of the class words, authentic first. The configuration's `clip` part is
    not read.

    Raises:
        UserError: taps beyond the depth, unknown options.
    """
    options = FrozenConfigDict(config.model)
    taps, depth = options.taps, clip.config.vision.num_hidden_layers
    if not taps or list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] > depth:
        raise UserError(
            f"config.model.taps is {taps}; expected ascending block numbers between 1 and {depth}, "
            "the depth of this CLIP's vision tower (for example --config.model.taps="
            f"{','.join(str(max(1, depth * k // 4)) for k in range(1, 5))})."
        )
    rngs = nnx.Rngs(params=jax.random.fold_in(jax.random.key(config.seed), 1))
    prompts, heads = Prompts(clip, class_ids, options, rngs), None
    if options.hecl.enabled and options.hecl.space == "own":
        width = clip.config.projection_dim
        heads = ProjectionHeads(len(taps), width, options.hecl.feature_dim, rngs)
    return SAPL(clip, prompts, heads, options)


def score_and_patch_map(
    model: SAPL, image: Array, edge_map: Array, valid: Array, *, views: bool = True
) -> tuple[Array, Array]:
    """What inference takes from the model: scores [B] and patch heat maps [B,n,n], float32.

    Where `model.test_views` is on, image logits and similarities are means over eight views, one
    after the other: the canvas as it is, moved by half a patch along either axis and both, and each
    of these turned by 180 degrees. The map then has two cells per patch along a side (n = 2g, else
    g). Attention between patches has the reach `model.test_reach`. Where `model.heat_map.colours`
    is on, maps are smoothed (`along_colours`). Patches of one colour tell nothing of how a picture
    was made: they do not raise pooled logits, in smoothed maps they take their neighbours' heat,
    and the map of a canvas of such is 0.

    Args: as `SAPL.__call__`: image [B,C,C,3] uint8, edge_map [B,g,g] float, valid [B,g,g] bool;
        `views` False: of the canvas as it is alone, maps [B,g,g].
    """

    def analyse(inputs: Arrays) -> Arrays:
        mute = ~_with_detail(inputs[0], edge_map.shape[1]).reshape(image.shape[0], -1)
        outputs = model(*inputs, reach=model.options.test_reach, mute=mute)
        grid = (*outputs.similarity.shape[:2], *edge_map.shape[1:], 2)
        return outputs.image_logits, outputs.similarity.reshape(grid)

    if views and model.options.test_views:
        seen = [_seen(image, edge_map, valid, *view) for view in _VIEWS]
        each, maps = jax.lax.map(analyse, tuple(map(jnp.stack, zip(*seen, strict=True))))
        logits = jnp.mean(each, axis=0)
        halves = [_unmoved(part, *view) for part, view in zip(maps, _VIEWS, strict=True)]
        similarity = jnp.mean(jnp.stack(halves), axis=0)
    else:
        logits, similarity = analyse((image, edge_map, valid))
    scores = jax.nn.softmax(logits, axis=-1)[:, TAMPERED]
    side = similarity.shape[2]
    similarity = similarity.reshape(*similarity.shape[:2], -1, 2)
    options = model.options.heat_map
    heat = tampered_heat(similarity, model.scale, options.taps).reshape(-1, side, side)
    telling = _with_detail(image, edge_map.shape[1])
    if options.colours:
        heat = along_colours(heat, image, valid, telling, options.sigma, options.colours)
    return scores, heat * jnp.any(telling, axis=(1, 2), keepdims=True)


def _with_detail(image: Array, grid: int) -> Array:
    """Which patches [B,g,g] differ within by more than 1 of 255 in a channel."""
    patch = image.shape[1] // grid
    pixels = image.astype(jnp.float32).reshape(-1, grid, patch, grid, patch, 3)
    return jnp.any(pixels.max(axis=(2, 4)) - pixels.min(axis=(2, 4)) > 1, axis=-1)


def _seen(image: Array, edge_map: Array, valid: Array, down: int, right: int, turn: int) -> Arrays:
    """A view of a batch's inputs, the canvas moved down and to the right.

    Mirrored pixels fill in, pixels pushed past the last valid patch become padding, and the edges
    of a moved patch are the mean of those of the patches it lies on.
    """
    side, grid = image.shape[1], edge_map.shape[1]
    patch = side // grid
    if down or right:
        rows, columns = (np.abs(np.arange(side) - by * (patch // 2)) for by in (down, right))
        image = image[:, rows][:, :, columns]
        above, left = (np.maximum(np.arange(grid) - by, 0) for by in (down, right))
        edge_map = (edge_map + edge_map[:, above]) / 2
        edge_map = (edge_map + edge_map[:, :, left]) / 2
        # A corner can have too little to be valid; a picture thinner than half a patch has no valid
        # patch at all, and nothing of it is pushed out.
        inside = valid.any(axis=2, keepdims=True) & valid.any(axis=1, keepdims=True)
        inside |= ~valid.any(axis=(1, 2), keepdims=True)
        inside = inside.repeat(patch, axis=1).repeat(patch, axis=2)[..., None]
        image = jnp.where(inside, image, jnp.asarray(PADDING, jnp.uint8))
    return image[:, ::turn, ::turn], (edge_map * valid)[:, ::turn, ::turn], valid[:, ::turn, ::turn]


def _unmoved(similarity: Array, down: int, right: int, turn: int) -> Array:
    """A view's similarities [L,B,g,g,2] by half patches of the canvas, [L,B,2g,2g,2].

    The last half patch of a moved canvas was pushed out: it takes its neighbour's values.
    """
    half = np.arange(2 * similarity.shape[2])
    rows, columns = (np.minimum((half + by) // 2, half[-1] // 2) for by in (down, right))
    return similarity[:, :, ::turn, ::turn][:, :, rows][:, :, :, columns]


def with_parts(model: SAPL, **parts: Any) -> SAPL:
    """A model that shares all with another but the parts that are named (clip, heads)."""
    other = copy.copy(model)
    for name, part in parts.items():
        setattr(other, name, part)
    return other
