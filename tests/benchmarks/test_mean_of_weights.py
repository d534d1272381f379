"""Means of two models' weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.mean_of_weights import mean_of
from sapl_jax import Localizer
from sapl_jax.clip.model import merge_lora
from sapl_jax.errors import UserError
from sapl_jax.exporting.writing import export
from sapl_jax.inference.opening import load_model
from sapl_jax.models.sapl import build_sapl, with_parts
from sapl_jax.training.state import merge_model, split_model


def moved(trained):
    """The same model with its LoRA merged and all its weights a little off."""
    model = with_parts(trained.model, clip=merge_lora(trained.model.clip))
    params, frozen = split_model(model)
    rng = np.random.default_rng(0)
    params, weights = jax.tree.map(
        lambda leaf: leaf + 0.02 * rng.normal(size=leaf.shape).astype(np.float32),
        (params, frozen.params),
    )
    return trained._replace(model=merge_model(params, frozen._replace(params=weights)))


def test_a_mean_is_of_every_weight_and_opens_as_an_export(trained_run, tmp_path):
    first = load_model(trained_run, "float32")
    second = moved(first)
    calibrated = first._replace(source={**first.source, "calibration": {"model": "of the first"}})
    found = mean_of(calibrated, second, 0.25)
    merged = with_parts(first.model, clip=merge_lora(first.model.clip))
    trees = [split_model(model) for model in (merged, second.model, found.model)]
    leaves = [jax.tree.leaves((params, frozen.params)) for params, frozen in trees]
    for one, other, mean in zip(*leaves, strict=True):
        np.testing.assert_allclose(mean, 0.75 * one + 0.25 * other, atol=1e-6)
    assert "calibration" not in found.source and "0.25 of" in found.source["checkpoint"]

    export(found, "orbax", tmp_path / "mean", [])
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    maps = [Localizer(*trained)(image).heat_map for trained in (first, found)]
    opened = Localizer.load(tmp_path / "mean", dtype="float32")(image).heat_map
    np.testing.assert_allclose(opened, maps[1], atol=1e-5)
    assert np.abs(maps[0] - maps[1]).max() > 1e-4
    assert found.source["fingerprint"] != mean_of(first, second, 0.5).source["fingerprint"]
    same = Localizer(*mean_of(first, second, 0.0))(image).heat_map
    np.testing.assert_allclose(same, maps[0], atol=1e-4)


def test_models_of_other_shapes_have_no_mean(trained_run, tiny_config):
    first = load_model(trained_run, "float32")
    tiny_config.model.prompt_length = first.config.model.prompt_length + 1
    other = first._replace(model=build_sapl(tiny_config, jnp.float32))
    with pytest.raises(UserError, match="one shape"):
        mean_of(first, other, 0.5)
