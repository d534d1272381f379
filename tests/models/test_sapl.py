"""The assembled model."""

import itertools
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.preprocess import PADDING, Geometry, preprocess
from sapl_jax.checkpoints import flatten
from sapl_jax.clip.tokens import class_token_ids
from sapl_jax.errors import UserError
from sapl_jax.models.localization import along_colours, heat_map_of_picture, tampered_heat
from sapl_jax.models.sapl import (
    CLIP_MEAN,
    CLIP_STD,
    build_sapl,
    normalize_pixels,
    score_and_patch_map,
)
from sapl_jax.training.state import split_model


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    edge_map = rng.random((3, 4, 4)).astype(np.float32)
    return jnp.asarray(image), jnp.asarray(edge_map), jnp.ones((3, 4, 4), bool)


def test_outputs_are_cosines_scaled_by_clip(tiny_config, batch):
    model = build_sapl(tiny_config, jnp.float32)
    outputs = model(*batch)
    assert outputs.image_logits.shape == (3, 2)
    assert outputs.similarity.shape == (2, 3, 16, 2)
    assert outputs.embeddings.shape == (2, 3, 16, 24)
    assert float(jnp.abs(outputs.similarity).max()) <= 1.0 + 1e-5
    assert float(jnp.abs(outputs.image_logits).max()) <= float(model.scale) * (1 + 1e-5)


def test_similarities_and_logits_are_those_of_the_equations(tiny_config, batch):
    """Eqs. (2), (3) and the similarities in NumPy; the towers' outputs have tests of their own."""
    model = build_sapl(tiny_config, jnp.float32)
    edge_tokens = model.prompts.edge_tokens
    kernel = np.random.default_rng(1).normal(size=edge_tokens.out_kernel.shape)
    edge_tokens.out_kernel[...] = jnp.asarray(kernel, jnp.float32)  # It is zero at the start.
    image, edge_map, valid = batch
    clip, taps = model.clip, tiny_config.model.taps

    def project(features):
        norm = clip.vision.post_norm
        centred = features - features.mean(-1, keepdims=True)
        normed = centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5)
        normed = normed * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
        return normed, normed @ np.asarray(clip.visual_projection.kernel[...])

    def cosine(a, b):
        return a @ b.T / np.linalg.norm(a, axis=-1, keepdims=True) / np.linalg.norm(b, axis=-1)

    pixels = (np.asarray(image) / 255 - CLIP_MEAN) / CLIP_STD
    features = clip.vision(jnp.asarray(pixels, jnp.float32), taps)
    patches, embeddings = project(np.asarray(features.taps, np.float64)[:, :, 1:])
    cls = np.asarray(features.pooled)
    tokens = edge_tokens(
        jnp.asarray(patches, jnp.float32), cls, edge_map.reshape(3, -1), valid.reshape(3, -1)
    )
    assert np.abs(tokens).max() > 0.01

    def word(*ids):
        return np.asarray(clip.text.embed(jnp.asarray(ids)))

    words = [word(*ids) for ids in class_token_ids(clip, tiny_config.model.class_words)]
    tokens *= np.linalg.norm(np.concatenate(words), axis=-1).mean()
    outputs = model(*batch)
    context = np.asarray(model.prompts.context[...])
    for b in range(3):
        texts = []
        for c, name in enumerate(tiny_config.model.class_words):
            (ids,) = class_token_ids(clip, [name])
            prompt = [word(clip.sot_id), context[c], tokens[b], word(*ids), word(clip.eot_id)]
            sequence = np.concatenate(prompt)
            texts.append(clip.text.encode(jnp.asarray(sequence)[None], len(sequence) - 1)[0])
        texts = np.asarray(texts)
        for tap in range(len(taps)):
            np.testing.assert_allclose(
                outputs.similarity[tap, b], cosine(embeddings[tap, b], texts), atol=1e-5
            )
        image_embedding = cls[b : b + 1] @ np.asarray(clip.visual_projection.kernel[...])
        expected = float(model.scale) * cosine(image_embedding, texts)[0]
        np.testing.assert_allclose(outputs.image_logits[b], expected, rtol=1e-4, atol=1e-4)


def test_the_image_logits_are_clip_s_own_when_nothing_is_learned(tiny_config, batch):
    tiny_config.model.prompts = "fixed"
    model = build_sapl(tiny_config, jnp.float32)
    clip = model.clip
    words = model.prompts.class_ids
    text = clip.encode_text(jnp.asarray([[clip.sot_id, *ids] for ids in words]))
    expected = model.scale * clip.encode_image(normalize_pixels(batch[0])) @ text.T
    np.testing.assert_allclose(model(*batch).image_logits, expected, rtol=1e-4, atol=1e-4)


def test_the_value_path_changes_the_map_and_not_the_verdict(tiny_config, batch):
    plain = build_sapl(tiny_config, jnp.float32)(*batch)
    tiny_config.model.value_attention = True
    found = build_sapl(tiny_config, jnp.float32)(*batch)
    assert float(jnp.abs(found.embeddings - plain.embeddings).max()) > 1e-3
    tiny_config.model.prompts = "fixed"
    verdicts = []
    for tiny_config.model.value_attention in (False, True):
        verdicts.append(build_sapl(tiny_config, jnp.float32)(*batch).image_logits)
    np.testing.assert_allclose(*verdicts, atol=1e-4)


def test_each_tap_may_have_a_scale_and_a_bias(tiny_config, batch):
    plain = np.array(build_sapl(tiny_config, jnp.float32)(*batch).similarity)
    tiny_config.model.tap_affine = True
    model = build_sapl(tiny_config, jnp.float32)
    np.testing.assert_array_equal(model(*batch).similarity, plain)  # before anything is learned
    scale, bias = np.random.default_rng(0).normal(size=(2, len(plain), 1, 1)).astype(np.float32)
    model.tap_scale[...], model.tap_bias[...] = jnp.asarray(scale[..., None]), bias[..., None]
    expected = plain * scale[..., None]
    expected[..., 1] += bias
    np.testing.assert_allclose(model(*batch).similarity, expected, rtol=1e-5, atol=1e-6)
    assert {"tap_scale", "tap_bias"} < set(split_model(model)[0])  # Both train.


def with_edge_tokens(config):
    """A model whose edge tokens say something: their last kernel is zero at the start."""
    model = build_sapl(config, jnp.float32)
    kernel = model.prompts.edge_tokens.out_kernel
    kernel[...] = jnp.asarray(np.random.default_rng(1).normal(size=kernel.shape), jnp.float32)
    return model


def test_another_picture_s_edges_are_those_of_another_picture(tiny_config, batch):
    image, edge_map, valid = (x[:2] for x in batch)
    valid = valid.at[1, 3].set(False)
    exchanged = with_edge_tokens(tiny_config)(image, edge_map[::-1] * valid, valid)
    own = with_edge_tokens(tiny_config)(image, edge_map, valid)
    tiny_config.model.edges = "another"
    another = with_edge_tokens(tiny_config)(image, edge_map, valid)
    np.testing.assert_array_equal(another.edge_map, exchanged.edge_map)
    np.testing.assert_allclose(another.image_logits, exchanged.image_logits, rtol=1e-5)
    assert float(jnp.abs(another.image_logits - own.image_logits).max()) > 1e-3


def test_another_picture_is_half_a_batch_further(tiny_config, batch):
    """Not the neighbour: in pairs, that is what this one was made from."""
    image, edge_map, valid = (jnp.concatenate([x, x[:1]]) for x in batch)
    tiny_config.model.edges = "another"
    found = build_sapl(tiny_config, jnp.float32)(image, edge_map, valid).edge_map
    np.testing.assert_array_equal(found, np.roll(edge_map, 2, axis=0).reshape(4, -1))


def test_padding_reaches_neither_prompts_nor_pooled_verdicts(tiny_config, batch):
    image, edge_map, valid = batch
    valid = valid.at[:, 2:].set(False)
    tiny_config.model.pooled_share = 1.0
    tiny_config.model.image_logits = "both"
    model = with_edge_tokens(tiny_config)
    plain = model(image, edge_map, valid)
    np.testing.assert_array_equal(
        model(image, edge_map.at[:, 2:].set(1.0), valid).image_logits, plain.image_logits
    )
    margin = model.scale * (plain.similarity[..., 1] - plain.similarity[..., 0]).mean(0)
    np.testing.assert_allclose(
        plain.logits[1, :, 1] - plain.logits[1, :, 0], margin[:, :8].mean(1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(plain.image_logits, plain.logits.mean(0), rtol=1e-5)


def test_the_logit_scale_may_be_another_than_clip_s(tiny_config, batch):
    found = [build_sapl(tiny_config, jnp.float32)(*batch).image_logits]
    scale = float(build_sapl(tiny_config, jnp.float32).scale)
    tiny_config.model.logit_scale = scale / 4
    found.append(build_sapl(tiny_config, jnp.float32)(*batch).image_logits)
    np.testing.assert_allclose(found[1], found[0] / 4, rtol=1e-4)


def test_an_image_s_result_does_not_depend_on_its_place_in_the_batch(tiny_config, batch):
    model = build_sapl(tiny_config, jnp.float32)
    whole = model(*batch)
    turned = model(*(x[::-1] for x in batch))
    np.testing.assert_allclose(turned.image_logits[::-1], whole.image_logits, rtol=1e-4)
    np.testing.assert_allclose(turned.similarity[:, ::-1], whole.similarity, atol=1e-5)


def test_the_learned_parts_are_drawn_from_the_seed(tiny_config):
    contexts = []
    for tiny_config.seed in (0, 0, 1):
        contexts.append(np.asarray(build_sapl(tiny_config, jnp.float32).prompts.context[...]))
    np.testing.assert_array_equal(contexts[0], contexts[1])
    assert np.abs(contexts[2] - contexts[0]).min() > 0


def test_only_lora_prompts_and_heads_train(tiny_config):
    params, frozen = split_model(build_sapl(tiny_config, jnp.float32))
    names = set(flatten(params))
    assert names
    assert all(name.startswith(("prompts/", "heads/")) or "/lora_" in name for name in names), names
    assert not any("lora" in name for name in flatten(frozen.params))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_bfloat16_is_close_to_float32_and_keeps_float32_masters(tiny_config, batch):
    exact = build_sapl(tiny_config, jnp.float32)(*batch)
    model = build_sapl(tiny_config, jnp.bfloat16)
    params, frozen = split_model(model)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert any(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(frozen.params))
    outputs = model(*batch)
    assert outputs.similarity.dtype == jnp.float32
    np.testing.assert_allclose(outputs.similarity, exact.similarity, atol=0.05)


@pytest.mark.parametrize("taps", [(1, 5), (0, 1), (2, 2), (4, 2), ()])
def test_impossible_taps_are_refused(tiny_config, taps):
    tiny_config.model.taps = taps
    with pytest.raises(UserError, match="between 1 and 4"):
        build_sapl(tiny_config, jnp.float32)


def test_pooled_image_logits_follow_the_most_tampered_patches(tiny_config, batch):
    tiny_config.model.image_logits = "patches"
    tiny_config.model.pooled_share = 1 / 4
    model = build_sapl(tiny_config, jnp.float32)
    outputs = model(*batch)
    margin = model.scale * (outputs.similarity[..., 1] - outputs.similarity[..., 0]).mean(0)
    expected = jnp.sort(margin, axis=1)[:, -4:].mean(1)
    np.testing.assert_allclose(
        outputs.image_logits[:, 1] - outputs.image_logits[:, 0], expected, rtol=1e-4, atol=1e-5
    )


def test_answers_with_views_are_means_over_moved_and_turned_canvases(tiny_config, batch):
    plain = build_sapl(tiny_config, jnp.float32)
    tiny_config.model.test_views = True
    model = build_sapl(tiny_config, jnp.float32)
    image, edge_map, valid = map(np.asarray, batch)
    valid = valid.copy()
    valid[0, :, 3] = valid[0, 3, 2] = False  # Narrower than the canvas, with a ragged corner.
    valid[1] = False  # Thinner than half a patch.
    edge_map = edge_map * valid
    logits, margins = [], np.zeros((3, 8, 8), np.float32)
    for down, right, turn in itertools.product((0, 1), (0, 1), (1, -1)):
        moved = [cv2.copyMakeBorder(one, 3 * down, 0, 3 * right, 0, cv2.BORDER_REFLECT_101)
                 for one in image]  # fmt: skip
        moved = np.stack(moved)[:, :28, :28]
        if down or right:
            moved[0, :, 21:] = PADDING
        rows, columns = (np.maximum(np.arange(4) - by, 0) for by in (down, right))
        edges = (edge_map + edge_map[:, rows]) / 2
        edges = (edges + edges[:, :, columns]) / 2 * valid
        outputs = plain(*(part[:, ::turn, ::turn] for part in (moved, edges, valid)))
        logits.append(np.asarray(outputs.image_logits))
        margin = plain.scale * (outputs.similarity[..., 1] - outputs.similarity[..., 0]).mean(0)
        margin = np.asarray(margin).reshape(3, 4, 4)[:, ::turn, ::turn]
        # The half patch at (r, c) lies in the moved patch at (r + down) // 2, (c + right) // 2.
        place = [np.minimum((np.arange(8) + by) // 2, 3) for by in (down, right)]
        margins += margin[:, place[0]][:, :, place[1]] / 8
    logits = np.mean(logits, 0)
    score, heat = score_and_patch_map(model, image, edge_map, valid)
    expected = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    np.testing.assert_allclose(score, expected, atol=1e-4)
    np.testing.assert_allclose(heat, 1 / (1 + np.exp(-margins)), atol=1e-4)
    one = score_and_patch_map(plain, image, edge_map, valid)
    assert one[1].shape == (3, 4, 4)
    assert np.abs(np.repeat(np.repeat(one[1], 2, 1), 2, 2) - heat).max() > 1e-3
    found = score_and_patch_map(model, image, edge_map, valid, views=False)
    for alone, other in zip(one, found, strict=True):
        np.testing.assert_array_equal(alone, other)


class Brightness:
    """A model that finds a patch tampered as its mean red value says, padding aside."""

    def __init__(self, patch):
        heat_map = SimpleNamespace(taps="logits", colours=0.0)
        self.options = SimpleNamespace(test_views=True, test_reach=0, heat_map=heat_map)
        self.scale, self.patch = 1.0, patch

    def __call__(self, image, edge_map, valid, *, reach, mute):
        grid = image.shape[1] // self.patch
        grids = (len(image), grid, self.patch, grid, self.patch)
        shown = jnp.any(image != jnp.asarray(PADDING, jnp.uint8), axis=-1).reshape(grids)
        red = jnp.sum(image[..., 0].reshape(grids) * shown, axis=(2, 4)) / 255
        red = (red / jnp.maximum(jnp.sum(shown, axis=(2, 4)), 1)).reshape(1, len(image), -1)
        logits = jnp.zeros((len(image), 2))
        return SimpleNamespace(image_logits=logits, similarity=jnp.stack([0 * red, red], axis=-1))


@pytest.mark.parametrize("patch", [16, 14, 7])
@pytest.mark.parametrize("shape", [(112, 112), (112, 62), (60, 112), (105, 105)])
def test_views_put_heat_where_the_picture_has_it(patch, shape):
    size = Geometry(max(shape), patch)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) + 10
    prepared = preprocess(np.repeat(ramp[..., None], 3, 2).astype(np.uint8), size)
    inputs = (jnp.asarray(part)[None] for part in prepared[:3])
    _, heat = score_and_patch_map(Brightness(patch), *inputs)
    sizes = {"canvas": size.canvas, "resized": prepared.resized, "original": shape}
    found = heat_map_of_picture(np.asarray(heat[0]), prepared.valid, sigma=0.0, **sizes)
    found = 255 * np.log(found / (1 - found))
    inner = np.s_[patch : -2 * patch, patch : -2 * patch]
    np.testing.assert_allclose(found[inner], ramp[inner], atol=2.0)
    np.testing.assert_allclose(found, ramp, atol=2 * patch)


@pytest.mark.parametrize("level", [0, 90, 255])
def test_patches_of_one_colour_raise_no_score_and_a_canvas_of_them_has_no_map(
    tiny_config, batch, level
):
    tiny_config.model.image_logits, tiny_config.model.pooled_share = "patches", 0.5
    model = build_sapl(tiny_config, jnp.float32)
    image, edge_map, valid = map(np.array, batch)
    image[0], image[1, :14] = level, level  # Wholly, and the upper half; all but rounding.
    image[0, ::2], image[1, :14:2] = abs(level - 1), abs(level - 1)
    scores, heat = score_and_patch_map(model, image, edge_map, valid)
    outputs = model(image, edge_map, valid)
    margin = model.scale * (outputs.similarity[..., 1] - outputs.similarity[..., 0]).mean(0)
    margin = np.asarray(margin).copy()
    margin[0], margin[1, :8] = np.minimum(margin[0], 0), np.minimum(margin[1, :8], 0)
    expected = np.sort(margin, axis=1)[:, 8:].mean(1)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-expected)), atol=1e-5)
    assert scores[0] <= 0.5 and not heat[0].any() and (heat[1:] > 0).all()


def test_padding_is_no_detail(tiny_config, batch):
    model = build_sapl(tiny_config, jnp.float32)
    image, edge_map, valid = map(np.array, batch)
    image[0, :, :21], image[0, :, 21:] = 90, PADDING
    assert not score_and_patch_map(model, image, edge_map, valid)[1][0].any()
    image[0, 3, 3] += 2
    assert score_and_patch_map(model, image, edge_map, valid)[1][0].any()


def test_the_map_is_made_as_its_options_say(tiny_config, batch):
    heat_map = tiny_config.model.heat_map
    heat_map.taps, heat_map.sigma, heat_map.colours = "probabilities", 10.0, 0.2
    tiny_config.model.logit_scale = 100.0
    model = build_sapl(tiny_config, jnp.float32)
    image, edge_map, valid = map(np.array, batch)
    valid[0, 3:], image[1, :14, :14] = False, 90  # Outside, and of one colour.
    telling = np.ones_like(valid)
    telling[1, :2, :2] = False
    similarity = model(image, edge_map, valid).similarity
    heat = tampered_heat(similarity, model.scale, "probabilities").reshape(3, 4, 4)
    expected = along_colours(heat, jnp.asarray(image), valid, telling, 10.0, 0.2)
    found = score_and_patch_map(model, image, edge_map, valid)[1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_answers_may_have_a_shorter_reach_than_training(tiny_config, batch):
    plain = build_sapl(tiny_config, jnp.float32)
    tiny_config.model.test_reach = 1
    shorter = build_sapl(tiny_config, jnp.float32)
    tiny_config.model.attention_reach, tiny_config.model.test_reach = 1, 0
    always = build_sapl(tiny_config, jnp.float32)
    np.testing.assert_array_equal(shorter(*batch).similarity, plain(*batch).similarity)
    expected, found = score_and_patch_map(always, *batch), score_and_patch_map(shorter, *batch)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(found[1] - score_and_patch_map(plain, *batch)[1]).max() > 1e-4


def test_patches_that_reach_only_neighbours_know_nothing_of_the_rest(tiny_config, batch):
    tiny_config.model.taps = (1, 2)
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (1, 56, 56, 3), dtype=np.uint8)
    other = image.copy()
    other[:, :7, :7] = 255 - other[:, :7, :7]  # The first of 8 x 8 patches.
    more = jnp.ones((1, 8, 8)), jnp.ones((1, 8, 8), bool)
    for reach, changed in ((0, 8), (1, 2)):
        tiny_config.model.attention_reach = reach
        model = build_sapl(tiny_config, jnp.float32)
        one, two = (model(jnp.asarray(pixels), *more).embeddings for pixels in (image, other))
        for tap, difference in enumerate(np.abs(one - two).max((1, 3)).reshape(2, 8, 8)):
            differs = difference > 0
            side = changed if reach == 0 else 1 + (tap + 1) * reach
            assert differs[:side, :side].all()
            assert differs.sum() == side**2
