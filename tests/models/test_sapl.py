"""The assembled model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sapl_jax.errors import UserError
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.checkpoints import flatten
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


def test_the_image_logits_are_clip_s_own_when_nothing_is_learned(tiny_config, batch):
    tiny_config.model.prompts = "fixed"
    model = build_sapl(tiny_config, jnp.float32)
    clip = model.clip
    from sapl_jax.models.sapl import normalize_pixels

    words = model.prompts.class_ids
    text = clip.encode_text(jnp.asarray([[clip.sot_id, *ids] for ids in words]))
    expected = model.scale * clip.encode_image(normalize_pixels(batch[0])) @ text.T
    np.testing.assert_allclose(model(*batch).image_logits, expected, rtol=1e-4, atol=1e-4)


def test_an_image_s_result_does_not_depend_on_its_place_in_the_batch(tiny_config, batch):
    model = build_sapl(tiny_config, jnp.float32)
    whole = model(*batch)
    turned = model(*(x[::-1] for x in batch))
    np.testing.assert_allclose(turned.image_logits[::-1], whole.image_logits, rtol=1e-4)
    np.testing.assert_allclose(turned.similarity[:, ::-1], whole.similarity, atol=1e-5)


def test_only_lora_prompts_and_heads_train(tiny_config):
    params, frozen = split_model(build_sapl(tiny_config, jnp.float32))
    names = set(flatten(params))
    assert names
    assert all(
        name.startswith(("prompts/", "heads/")) or "/lora_" in name for name in names
    ), names
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
    tiny_config.model.pooled_patches = 4
    model = build_sapl(tiny_config, jnp.float32)
    outputs = model(*batch)
    margin = model.scale * (outputs.similarity[..., 1] - outputs.similarity[..., 0]).mean(0)
    expected = jnp.sort(margin, axis=1)[:, -4:].mean(1)
    np.testing.assert_allclose(
        outputs.image_logits[:, 1] - outputs.image_logits[:, 0], expected, rtol=1e-4, atol=1e-5
    )
