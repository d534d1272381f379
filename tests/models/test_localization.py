"""Heat maps from patch similarity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.models.localization import (
    along_colours,
    heat_map_of_picture,
    pooled_logits,
    stretched,
    tampered_heat,
)


def test_patch_heat_is_the_softmax_of_the_logits_mean_over_the_taps():
    similarity = np.random.default_rng(0).normal(size=(3, 2, 5, 2))
    scaled = np.exp(4.0 * similarity.mean(axis=0))
    expected = scaled[..., 1] / scaled.sum(-1)
    heat = tampered_heat(jnp.asarray(similarity), jnp.asarray(4.0), "logits")
    np.testing.assert_allclose(heat, expected, rtol=1e-5)


def test_the_map_may_be_the_mean_of_the_taps_probabilities():
    similarity = np.random.default_rng(0).normal(size=(3, 2, 5, 2))
    each = np.exp(4.0 * similarity)
    expected = (each[..., 1] / each.sum(-1)).mean(axis=0)
    heat = tampered_heat(jnp.asarray(similarity), 4.0, "probabilities")
    np.testing.assert_allclose(heat, expected, rtol=1e-4)


def test_a_stretched_map_spans_its_range_with_the_level_of_its_decile_at_one_half():
    plain = np.random.default_rng(0).uniform(0.2, 0.3, (5, 7)).astype(np.float32)
    found = stretched(plain.copy(), 0.6)
    assert found.dtype == np.float32
    assert found.min() == 0 and found.max() == pytest.approx(1, abs=1e-6)
    assert (np.argsort(found, axis=None) == np.argsort(plain, axis=None)).all()
    middle = plain.min() + 0.6 * (np.quantile(plain, 0.9) - plain.min())
    np.testing.assert_array_equal(found > 0.5, plain > middle)
    assert 0 < (plain > middle).sum() < plain.size
    np.testing.assert_array_equal(stretched(plain.copy(), 0.0), plain)
    flat = np.full((3, 3), 0.7, np.float32)
    np.testing.assert_array_equal(stretched(flat.copy(), 0.6), 0)
    flat[0] += 1e-6  # What blended tiles of one value differ by.
    np.testing.assert_array_equal(stretched(flat, 0.6), 0)
    faint = stretched(np.array([[0.5, 0.501]], np.float32), 0.6)
    assert faint.max() == pytest.approx(1)
    peak = np.zeros((20, 20), np.float32)
    peak[3, 4] = 0.1  # A decile of zero: nothing but the peak is hot.
    np.testing.assert_array_equal(stretched(peak.copy(), 0.6) > 0.5, peak > 0)


def test_a_hot_spot_more_does_not_move_the_middle_of_a_stretched_map():
    plain = np.random.default_rng(0).uniform(0.2, 0.3, (40, 40)).astype(np.float32)
    hotter = plain.copy()
    hotter[np.unravel_index(plain.argmax(), plain.shape)] = 0.9
    marked = stretched(hotter, 0.8) > 0.5
    np.testing.assert_array_equal(marked, stretched(plain, 0.8) > 0.5)


def test_the_decile_of_a_long_map_is_of_samples_of_both_axes():
    plain = np.zeros((8, 5000), np.float32)
    plain[4:] = np.linspace(0, 1, 5000, dtype=np.float32)
    share = (stretched(plain.copy(), 0.85) > 0.5).mean()
    assert share == pytest.approx((plain > 0.85 * np.quantile(plain, 0.9)).mean(), abs=0.01)


def heat_map(patch_map, valid, resized, original, sigma=0.0):
    return heat_map_of_picture(
        patch_map, valid, canvas=40, resized=resized, original=original, sigma=sigma
    )


def test_heat_map_is_at_the_picture_s_own_size_and_place():
    patch_map = np.zeros((4, 4), np.float32)
    patch_map[0, 3] = 1.0  # Top right patch of a 20 x 40 picture on a 40 x 40 canvas.
    valid = np.zeros((4, 4), bool)
    valid[:2] = True
    result = heat_map(patch_map, valid, (20, 40), (100, 200))
    assert result.shape == (100, 200)
    assert result.dtype == np.float32
    row, column = np.unravel_index(result.argmax(), result.shape)
    assert row < 30 and column > 170
    assert result[60:, :100].max() == 0.0


def test_the_padding_does_not_bleed_into_the_picture():
    patch_map = np.ones((4, 4), np.float32)
    patch_map[:2] = 0.25
    valid = np.zeros((4, 4), bool)
    valid[:2] = True
    result = heat_map(patch_map, valid, (20, 40), (20, 40), sigma=3.0)
    np.testing.assert_allclose(result, 0.25, atol=1e-6)


def test_of_two_cells_a_patch_the_last_is_not_read():
    patch_map = np.zeros((8, 8), np.float32)
    patch_map[:4] = np.arange(8) / 8
    patch_map[3] = patch_map[:, 7] = 1.0  # What moved views have there is of other patches.
    valid = np.zeros((4, 4), bool)
    valid[:2] = True
    result = heat_map(patch_map, valid, (20, 40), (20, 40))
    np.testing.assert_allclose(result[:, 2:33:5], np.tile(np.arange(7) / 8, (20, 1)), atol=1e-6)
    np.testing.assert_allclose(result[:, 33:], 6 / 8, atol=1e-6)


def test_smoothing_lowers_a_peak_and_keeps_the_range():
    patch_map = np.zeros((4, 4), np.float32)
    patch_map[1, 1] = 1.0
    valid = np.ones((4, 4), bool)
    sharp = heat_map(patch_map, valid, (40, 40), (80, 80))
    smooth = heat_map(patch_map, valid, (40, 40), (80, 80), sigma=4.0)
    assert 0.0 < smooth.max() < sharp.max() <= 1.0
    assert smooth.min() >= 0.0


@pytest.mark.parametrize("cells", [1, 2])
def test_a_corner_that_is_not_the_picture_s_shows_its_neighbours(cells):
    valid = np.ones((4, 4), bool)
    valid[3, 3] = False
    patch_map = np.full((4 * cells, 4 * cells), 0.5, np.float32)
    patch_map[3 * cells :, 3 * cells :] = 1.0
    found = heat_map(patch_map, valid, (36, 36), (36, 36))
    np.testing.assert_allclose(found, 0.5)


def plain_along_colours(heat, image, inside, sigma, colours):
    """`along_colours` of one picture, cell by cell."""
    side = len(heat)
    cell = len(image) // side
    means = image.reshape(side, cell, side, cell, 3).mean((1, 3)) / 255
    red, green, blue = np.moveaxis(means, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    colour = np.stack([luma, red - green, (red + green) / 2 - blue], -1)
    for _ in range(2):
        before, heat = heat, np.zeros((side, side))
        for y, x in np.ndindex(side, side):
            total = 0.0
            for v, u in np.argwhere(inside):
                near = cell**2 * ((y - v) ** 2 + (x - u) ** 2) / sigma**2
                like = ((colour[y, x] - colour[v, u]) ** 2).sum() / colours**2
                weight = np.exp(-(near + like) / 2)
                heat[y, x] += weight * before[v, u]
                total += weight
            heat[y, x] /= total
    return heat


@pytest.mark.parametrize("cells", [1, 2])
def test_smoothing_along_colours_is_a_joint_bilateral_filter(cells):
    rng = np.random.default_rng(0)
    side = 3 * cells
    heat = rng.uniform(size=(2, side, side)).astype(np.float32)
    image = rng.integers(0, 256, (2, 42, 42, 3), dtype=np.uint8)
    valid = np.ones((2, 3, 3), bool)
    valid[1, 2:] = False  # A picture that leaves the canvas's last patches, and half of another.
    telling = np.ones((2, 3, 3), bool)
    telling[0, 1, 1] = False
    arrays = map(jnp.asarray, (heat, image, valid, telling))
    found = along_colours(*arrays, 20.0, 0.2)
    for b, rows in enumerate((side, 2 * cells - (cells - 1))):
        inside = np.zeros((side, side), bool)
        inside[:rows] = True
        inside &= telling[b].repeat(cells, 0).repeat(cells, 1)
        expected = plain_along_colours(heat[b], image[b], inside, 20.0, 0.2)
        np.testing.assert_allclose(found[b][:rows], expected[:rows], atol=1e-5)


def test_smoothing_along_colours_keeps_to_a_thing_of_the_picture_s_own():
    rng = np.random.default_rng(0)
    thing = np.zeros((8, 8), bool)
    thing[2:6, 3:7] = True
    image = np.where(thing.repeat(8, 0).repeat(8, 1)[..., None], [200, 60, 40], [40, 90, 160])
    image = (image + rng.integers(-20, 21, image.shape)).astype(np.uint8)[None]
    heat = (0.4 + 0.2 * thing + 0.3 * rng.normal(size=(8, 8))).astype(np.float32)[None]
    valid = jnp.ones((1, 8, 8), bool)

    def gap(pixels):
        """By how much the thing is hotter than what is right beside it."""
        found = np.asarray(along_colours(jnp.asarray(heat), pixels, valid, valid, 24.0, 0.15))[0]
        beside = thing ^ (np.roll(thing, 1, 0) | np.roll(thing, -1, 0))
        return found[thing].mean() - found[beside & ~thing].mean()

    assert gap(image) > 0.1
    for other in (image[:, ::-1, :24].repeat(3, 2)[:, :, :64], np.full_like(image, 90)):
        assert gap(other) < 0.06


def test_smoothing_along_colours_of_a_picture_without_a_valid_patch_is_finite():
    heat = jnp.full((1, 4, 4), 0.5)
    image = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    none = jnp.zeros((1, 4, 4), bool)
    found = along_colours(heat, image, none, ~none, 20.0, 0.2)
    np.testing.assert_allclose(found, 0.5, atol=1e-6)


def test_a_picture_thinner_than_half_a_patch_still_gets_a_map():
    result = heat_map(np.full((4, 4), 0.5, np.float32), np.zeros((4, 4), bool), (1, 40), (2, 400))
    assert result.shape == (2, 400)
    np.testing.assert_allclose(result, 0.5)


def test_pooled_logits_are_the_mean_margin_of_the_most_tampered_valid_patches() -> None:
    rng = np.random.default_rng(3)
    similarity = rng.uniform(-1, 1, (2, 3, 9, 2)).astype(np.float32)
    valid = np.ones((3, 9), bool)
    valid[1, 4:] = False
    valid[2, 1:] = False
    logits = np.asarray(pooled_logits(similarity, 10.0, valid, 0.4))
    margin = 10 * (similarity[..., 1] - similarity[..., 0]).mean(0)
    for b, count in enumerate((4, 2, 1)):  # Four tenths of 9, 4 and 1 patches, rounded up.
        expected = np.sort(margin[b][valid[b]])[::-1][:count].mean()
        np.testing.assert_allclose(logits[b], [-expected / 2, expected / 2], rtol=1e-5)


def test_pooled_logits_have_a_finite_gradient_where_no_patch_is_valid() -> None:
    similarity = jnp.zeros((1, 1, 4, 2))

    def loss(similarity):
        return jnp.sum(pooled_logits(similarity, 10.0, jnp.zeros((1, 4), bool), 0.5))

    assert np.isfinite(jax.grad(loss)(similarity)).all()
