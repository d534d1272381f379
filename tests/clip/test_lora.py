"""LoRA: nothing at the start, trains, merges; and the folder that `save_clip` writes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from sapl_jax.clip.blocks import Recompute, Trainable
from sapl_jax.clip.config import LoRAConfig
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import merge_lora
from sapl_jax.clip.weights import save_clip

ALL = ("q", "k", "v", "out", "fc1", "fc2")


def with_random_b(clip):
    """Sets every B to seeded random values, in place."""
    for index, target in enumerate(clip.lora_config.targets):
        b = getattr(clip.vision.blocks, target).lora_b
        b.set_value(0.1 * jax.random.normal(jax.random.key(index), b.shape))
    return clip


def test_adds_exactly_nothing_at_the_start(tiny_folder, tiny_clip, expected):
    clip = load_clip(tiny_folder, lora=LoRAConfig(targets=ALL))
    pixels = expected["pixel_values"]
    found, wanted = clip.vision(pixels, (1, 4)), tiny_clip.vision(pixels, (1, 4))
    np.testing.assert_array_equal(found.taps, wanted.taps)


def test_a_is_drawn_as_peft_does_and_b_is_zero(tiny_folder):
    clip = load_clip(tiny_folder, lora=LoRAConfig(rank=64, targets=("fc2",)), seed=1)
    a, b = clip.vision.blocks.fc2.lora_a[...], clip.vision.blocks.fc2.lora_b[...]
    assert a.shape == (4, 96, 64) and b.shape == (4, 64, 40)
    # kaiming_uniform(a=sqrt 5) is uniform in +-1/sqrt(fan_in), fan_in = 96.
    bound = 96**-0.5
    assert 0.99 * bound < np.abs(a).max() <= bound
    assert np.std(a) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert np.abs(a[0] - a[1]).max() > 0
    assert not np.any(b)


def test_targets_start_from_draws_of_their_own(tiny_folder):
    blocks = load_clip(tiny_folder, lora=LoRAConfig(targets=ALL)).vision.blocks
    drawn = [np.asarray(getattr(blocks, name).lora_a[...]) for name in ("q", "k", "v", "out")]
    assert len({a.tobytes() for a in drawn}) == 4


@pytest.mark.parametrize("recompute", [Recompute("none"), Recompute("blocks", unroll=True)])
def test_gradients_reach_a_and_b_of_every_target(tiny_folder, expected, recompute):
    clip = with_random_b(load_clip(tiny_folder, lora=LoRAConfig(rank=2, targets=ALL)))
    graphdef, trainable, frozen = nnx.split(clip, Trainable, nnx.Param)

    @jax.jit
    def loss(trainable):
        features = nnx.merge(graphdef, trainable, frozen).vision(
            expected["pixel_values"], (2,), recompute
        )
        return jnp.mean(features.pooled[:, 0]) + jnp.mean(features.taps[..., 0] ** 2)

    gradient = jax.grad(loss)(trainable)
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.abs(leaf).max(axis=(1, 2)) > 0), path
    # Against finite differences along the gradient itself.
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    step = 1e-2 / norm
    up, down = (
        loss(jax.tree.map(lambda x, g, s=sign: x + s * step * g, trainable, gradient))
        for sign in (1, -1)
    )
    assert float(up - down) / 2e-2 == pytest.approx(float(norm), rel=1e-2)


def test_merged_weights_give_the_same_outputs(tiny_folder, tiny_clip, expected):
    clip = with_random_b(load_clip(tiny_folder, lora=LoRAConfig(rank=3, alpha=5, targets=ALL)))
    pixels = expected["pixel_values"]
    adapted = clip.encode_image(pixels)
    assert np.abs(adapted - tiny_clip.encode_image(pixels)).max() > 0.01
    merged = merge_lora(clip)
    assert merged.lora_config is None
    assert not jax.tree.leaves(nnx.state(merged, Trainable))
    np.testing.assert_allclose(merged.encode_image(pixels), adapted, atol=1e-5)
    # The one that was merged is left as it was.
    np.testing.assert_array_equal(clip.encode_image(pixels), adapted)


def test_saved_folder_loads_back_with_lora_merged(tiny_folder, tmp_path, expected):
    clip = with_random_b(load_clip(tiny_folder, lora=LoRAConfig()))
    file = save_clip(clip, tmp_path / "out")
    loaded = load_clip(tmp_path / "out")
    assert loaded.config == clip.config and loaded.source.file == file.name
    pixels = expected["pixel_values"]
    np.testing.assert_allclose(loaded.encode_image(pixels), clip.encode_image(pixels), atol=1e-5)
    np.testing.assert_array_equal(
        loaded.encode_text(expected["input_ids"]), clip.encode_text(expected["input_ids"])
    )


def test_saved_file_has_the_hugging_face_names_and_layout(tiny_folder, tiny_clip, tmp_path):
    found = safetensors.numpy.load_file(save_clip(tiny_clip, tmp_path))
    wanted = safetensors.numpy.load_file(tiny_folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig.from_pretrained(tmp_path)
    assert config.vision_config.hidden_size == 40 and config.text_config.eos_token_id == 511


def test_bfloat16_weights_survive_saving(tiny_folder, tmp_path):
    clip = load_clip(tiny_folder, dtype=jnp.bfloat16)
    save_clip(clip, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
    loaded = load_clip(tmp_path, dtype=jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded), nnx.state(clip))
