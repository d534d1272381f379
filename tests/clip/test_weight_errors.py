"""Weights that are absent, damaged or of another model are one clear error each."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx, serialization
from huggingface_hub import constants

from sapl_jax.clip.loading import PINNED, load_clip, open_clip
from sapl_jax.clip.model import CLIPSource
from sapl_jax.clip.weight_files import read_msgpack
from sapl_jax.errors import UserError

FORMATS = ["flax_model.msgpack", "model.safetensors", "pytorch_model.bin"]


def test_the_formats_are_read_in_order_of_preference(folder_with):
    for file in reversed(FORMATS):
        assert load_clip(folder_with(file)).source.file == file


def test_the_source_says_where_the_weights_came_from(tiny_clip, tiny_folder, folder_with, caplog):
    caplog.set_level("INFO")
    folder = folder_with("model.safetensors")
    sha256 = "adee7508f2e4cf1c48b0ddb671cdfab77f5995cd20769ddd8cf2bf5b0b16a154"
    wanted = CLIPSource(str(folder), None, "model.safetensors", sha256)
    assert load_clip(folder).source == wanted
    assert sha256 in caplog.text and str(folder) in caplog.text


def test_weights_are_shapes_until_they_are_read(tiny_clip, tiny_folder):
    clip, read = open_clip(tiny_folder)
    waiting, there = nnx.state(clip), nnx.state(tiny_clip)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(waiting))
    assert jax.tree.map(jnp.shape, waiting) == jax.tree.map(jnp.shape, there)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(read).result()
    jax.tree.map(np.testing.assert_array_equal, nnx.state(clip), there)
    assert clip.source == tiny_clip.source


def test_all_names_that_do_not_fit_are_one_error(folder_with):
    folder = folder_with("model.safetensors")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    del tensors["logit_scale"]
    del tensors["text_model.encoder.layers.2.mlp.fc1.bias"]
    tensors["vision_model.head.weight"] = np.zeros((2, 2), np.float32)
    for tower, count in (("text", 77), ("vision", 17)):  # known and ignored
        tensors[f"{tower}_model.embeddings.position_ids"] = np.arange(count)[None]
    tensors["visual_projection.weight"] = np.zeros((24, 41), np.float32)
    tensors["vision_model.encoder.layers.1.mlp.fc2.weight"] = np.zeros((40, 96), np.int32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as caught:
        open_clip(folder)  # Before a weight is read.
    message = str(caught.value)
    for part in (
        "2 missing",
        "logit_scale",
        "text_model.encoder.layers.2.mlp.fc1.bias",
        "1 unexpected",
        "vision_model.head.weight",
        "2 of another shape or type",
        "visual_projection.weight: (24, 41), expected (24, 40)",
        "vision_model.encoder.layers.1.mlp.fc2.weight: dtype int32",
    ):
        assert part in message
    assert "position_ids" not in message


def test_a_configuration_of_another_depth_lists_the_blocks(folder_with):
    folder = folder_with("flax_model.msgpack")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"16 missing:\n.*layers\.4\.layer_norm1\.scale"):
        load_clip(folder)


@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.parametrize("keep", [0, 5, 100, 0.3, 0.999])
def test_truncated_files_are_a_users_error(file, keep, folder_with):
    folder = folder_with(file)
    content = (folder / file).read_bytes()
    size = int(len(content) * keep) if isinstance(keep, float) else keep
    (folder / file).write_bytes(content[:size])
    with pytest.raises(UserError, match=file):
        load_clip(folder)


@pytest.mark.parametrize("file", FORMATS)
def test_damaged_files_never_end_in_a_traceback(file, folder_with):
    folder = folder_with(file)
    content = (folder / file).read_bytes()
    rng = np.random.default_rng(0)
    # The structure sits at both ends of these formats; flips there hit headers and pickles.
    for trial in range(12):
        damaged = bytearray(content)
        for position in rng.integers(0, 4000, 3):
            damaged[position if trial % 2 else -1 - position] ^= int(rng.integers(1, 256))
        (folder / file).write_bytes(damaged)
        try:
            load_clip(folder)
        except UserError as error:
            assert file in str(error)


def test_a_git_lfs_pointer_is_named(folder_with):
    folder = folder_with()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="Git LFS pointer"):
        load_clip(folder)


def test_a_folder_without_weights_or_with_shards(folder_with):
    folder = folder_with()
    with pytest.raises(UserError, match="found no CLIP weights.*pytorch_model.bin"):
        load_clip(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="split over several files"):
        load_clip(folder)


def test_msgpack_holding_other_things_than_arrays(folder_with):
    folder = folder_with()
    file = folder / "flax_model.msgpack"
    for content, found in (
        (msgpack.packb({"a": {"b": "text"}}), "a.b is a str"),
        (msgpack.packb([1, 2]), "found a list"),
        (msgpack.packb({"a": msgpack.ExtType(2, msgpack.packb([1.0, 2.0]))}), "a is a complex"),
        (msgpack.packb({"a": msgpack.ExtType(7, b"\0" * 16)}), "a is a ExtType"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb([[1], "object", b"12345678"]))}),
         "OBJECT array"),
        (serialization.msgpack_serialize({"a": np.float32(1)}), "missing"),
    ):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(UserError, match=found):
            load_clip(folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "cannot read"),
        ('{"model_type": "bert"}', "'bert'"),
        ("[]", "list"),
        ('{"model_type": "clip", "vision_config": {"hidden_size": 41}}', "not a multiple|heads"),
        ('{"model_type": "clip", "text_config": {"hidden_act": "swish"}}', "swish"),
        ('{"model_type": "clip", "vision_config": {"num_channels": 1}}', "num_channels"),
        ('{"model_type": "clip", "vision_config": {"patch_size": 0}}', "patch_size"),
        ('{"model_type": "clip", "vision_config": {"patch_size": "x"}}', "patch_size"),
        ('{"model_type": "clip", "text_config": {"layer_norm_eps": null}}', "eps is None"),
        ('{"model_type": "clip", "text_config": 5}', "text_config is 5"),
        ('{"model_type": "clip", "projection_dim": 1.5}', "projection_dim is 1.5"),
    ],
)
def test_unusable_configurations_are_users_errors(text, found, folder_with):
    folder = folder_with("model.safetensors")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=found):
        load_clip(folder)


def test_a_missing_folder_is_told_from_a_hub_name(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_clip(tmp_path / "absent")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty Hugging Face cache and no network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_absent_weights_offline_say_how_to_get_them(offline):
    name = "openai/clip-vit-large-patch14-336"
    with pytest.raises(UserError) as caught:
        load_clip(name)
    assert f"hf download {name} --revision {PINNED[name]}" in str(caught.value)


@pytest.mark.parametrize("revision", [None, "a" * 40])
def test_a_hub_name_is_read_from_the_cache_at_its_pinned_revision(offline, tiny_folder, revision):
    name = "openai/clip-vit-base-patch32"
    commit = revision or PINNED[name]
    snapshot = offline / "models--openai--clip-vit-base-patch32" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in ("config.json", "pytorch_model.bin"):
        (snapshot / file).write_bytes((tiny_folder / file).read_bytes())
    source = load_clip(name, revision=revision).source
    assert (source.name, source.revision, source.file) == (name, commit, "pytorch_model.bin")


def test_an_array_that_flax_stored_in_chunks_is_read_whole(tmp_path, monkeypatch):
    whole = np.arange(60, dtype=np.float32).reshape(5, 12)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    file = tmp_path / "flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize({"a": {"b": whole}}))
    assert b"chunked" in file.read_bytes()
    (found,) = read_msgpack(file).values()
    np.testing.assert_array_equal(found.read(), whole)
