"""The prompts' layout, variants and limits."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sapl_jax.clip.loading import load_clip
from sapl_jax.errors import UserError
from sapl_jax.models.prompts import Prompts
from sapl_jax.training.configuration import CHOICES
from tests.tiny import tiny_configuration

REAL, FAKE = [3], [4, 5]


@pytest.fixture(scope="module")
def clip():
    from tests.conftest import TINY_CLIP

    return load_clip(TINY_CLIP)


@pytest.fixture(scope="module")
def image():
    """Patches [L,B,T,d_v], CLS [B,d_v], edge map and valid [B,T] of two images."""
    rng = np.random.default_rng(0)
    patches = jnp.asarray(rng.normal(size=(2, 2, 6, 40)), jnp.float32)
    cls = jnp.asarray(rng.normal(size=(2, 40)), jnp.float32)
    edge_map = jnp.asarray(rng.random((2, 6)), jnp.float32)
    return patches, cls, edge_map, jnp.ones((2, 6), bool)


def make(clip, variant, **changes):
    options = tiny_configuration().model
    options.update(changes | {"prompts": variant})
    prompts = Prompts(clip, [REAL, FAKE], options, nnx.Rngs(0))
    if variant.startswith("ecpl"):
        prompts.edge_tokens.out_kernel[...] = jnp.ones_like(prompts.edge_tokens.out_kernel[...])
    return prompts


def test_ecpl_prompt_is_sot_context_edge_tokens_class_eot(clip, image):
    prompts = make(clip, "ecpl")
    sequence, eot = prompts(clip, *image)
    assert sequence.shape == (2, 2, 1 + 3 + 2 + 2 + 1, 32)
    assert np.asarray(eot).tolist() == [7, 8]
    embed = clip.text.embed
    tokens = prompts.edge_tokens(*image)
    word_norm = jnp.linalg.norm(embed(jnp.array([REAL[0], FAKE[0]])), axis=-1).mean()
    for b in range(2):
        for c, ids in enumerate((REAL, FAKE)):
            np.testing.assert_array_equal(sequence[b, c, 0], embed(jnp.array([clip.sot_id]))[0])
            np.testing.assert_array_equal(sequence[b, c, 1:4], prompts.context[...][c])
            np.testing.assert_allclose(sequence[b, c, 4:6], word_norm * tokens[b], rtol=1e-5)
            np.testing.assert_array_equal(sequence[b, c, 6 : 6 + len(ids)], embed(jnp.array(ids)))
            np.testing.assert_array_equal(
                sequence[b, c, eot[c]], embed(jnp.array([clip.eot_id]))[0]
            )


def test_prompts_without_learned_parts_equal_clip_s_own_text_encoder(clip, image):
    sequence, eot = make(clip, "fixed")(clip, *image)
    ids = np.full((2, 4), clip.eot_id)
    ids[0, :2] = [clip.sot_id, *REAL]
    ids[1, :3] = [clip.sot_id, *FAKE]
    features = clip.text.encode(sequence[0], eot)
    features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    np.testing.assert_allclose(features, clip.encode_text(jnp.asarray(ids)), atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "by_image", "by_edges"),
    [
        ("fixed", False, False),
        ("coop", False, False),
        ("cocoop", True, False),
        ("ecpl_no_edge", True, False),
        ("ecpl", True, True),
    ],
)
def test_variants_depend_on_what_they_say(clip, image, variant, by_image, by_edges):
    patches, cls, edge_map, valid = image
    prompts = make(clip, variant)
    base, _ = prompts(clip, *image)
    other_image, _ = prompts(clip, patches + 1.0, cls * 2.0, edge_map, valid)
    other_edges, _ = prompts(clip, patches, cls, edge_map / 2, valid)
    assert np.array_equal(base, other_image) != by_image
    assert np.array_equal(base, other_edges) != by_edges


def test_cocoop_shifts_its_context_by_what_a_small_network_says_of_the_image(clip, image):
    prompts = make(clip, "cocoop")
    rng, net = np.random.default_rng(1), []
    for name in ("meta_in", "meta_in_bias", "meta_out", "meta_out_bias"):
        value = getattr(prompts, name)
        low = 5.0 if name == "meta_in_bias" else 0.0  # So that some units are off.
        value[...] = jnp.asarray(rng.normal(size=value.shape) - low, jnp.float32)
        net.append(np.asarray(value[...]))
    hidden = np.asarray(image[1]) @ net[0] + net[1]
    assert (hidden < 0).any() and (hidden > 0).any()
    shift = np.maximum(hidden, 0) @ net[2] + net[3]
    found, _ = prompts(clip, *image)
    expected = np.asarray(prompts.context[...])[None] + shift[:, None, None]
    np.testing.assert_allclose(found[:, :, 1:4], expected, rtol=1e-4, atol=1e-4)


def test_every_variant_is_covered():
    assert set(CHOICES["model.prompts"]) == {"fixed", "coop", "cocoop", "ecpl_no_edge", "ecpl"}


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("ecpl", {"prompt_length": 75}, "config.model.prompt_length"),
        ("ecpl", {"attention_heads": 5}, "attention_heads"),
    ],
)
def test_impossible_prompts_are_refused(clip, variant, changes, message):
    with pytest.raises(UserError, match=message):
        make(clip, variant, **changes)
