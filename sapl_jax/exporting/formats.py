"""The formats of an export, each a folder with `export.json` (configuration and preprocessing).

    orbax        weights/: an Orbax checkpoint of float32 arrays: CLIP with LoRA merged, prompts,
                 ECPL, HECL. Any number of devices can open it, without CLIP's files.
    stablehlo    model.stablehlo: the network as `jax.export` bytes for CPU, CUDA and TPU, of any
                 batch size; weights.npz: its arguments (as constants they would be too large, and
                 there once for each platform); run.py.
    onnx         model.onnx, of any batch size, and model.onnx.data where the weights exceed a
                 gigabyte; run.py. Needs the extra "onnx": jax2onnx converts, onnxruntime checks.
    huggingface  config.json, model.safetensors: CLIP with LoRA merged, float32, for `transformers`.
                 Prompts and heads are SAPL's own and not part of it.

run.py has preprocessing and heat maps in NumPy and OpenCV and runs without this package.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from data_pipelines.preprocess import Geometry
from sapl_jax.checkpoints import CheckpointFolder, flatten
from sapl_jax.clip.attention import plain_attention
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import merge_lora
from sapl_jax.clip.weights import save_clip
from sapl_jax.errors import UserError
from sapl_jax.exporting.description import describe
from sapl_jax.inference.exports import ORBAX_WEIGHTS, as_float32
from sapl_jax.inference.trained import TrainedModel
from sapl_jax.models.sapl import SAPL, score_and_patch_map, with_parts
from sapl_jax.training.state import merge_model, split_model


class Network(NamedTuple):
    """A model as a function and the arrays that it needs.

    Attributes:
        weights: arrays by name.
        apply: (weights, image, edge_map, valid) -> as `score_and_patch_map`.
    """

    weights: dict[str, jax.Array]
    apply: Callable[..., tuple[jax.Array, jax.Array]]


def network_of(model: SAPL) -> Network:
    """The network of a model; HECL's heads, which only training uses, are left out."""
    params, frozen = split_model(with_parts(model, heads=None))
    weights = {"trained": params, "clip": frozen.params}
    structure = jax.tree.structure(weights)

    def apply(flat: dict[str, Any], *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A dict's leaves come back in the order of its keys; the names are in that of the tree.
        tree = jax.tree.unflatten(structure, [flat[name] for name in names])
        sapl = merge_model(tree["trained"], frozen._replace(params=tree["clip"]))
        return score_and_patch_map(sapl, *batch)

    flat = flatten(weights)
    names = list(flat)
    return Network(flat, apply)


def write_huggingface(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a float32 model into an existing, empty folder."""
    save_clip(trained.model.clip, folder).chmod(0o644)  # safetensors makes it private


def with_tower_of(trained: TrainedModel, folder: Path) -> TrainedModel:
    """The same prompts on the CLIP that is in an export folder."""
    return trained._replace(model=with_parts(trained.model, clip=load_clip(folder)))


PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a float32 model without LoRA into an existing, empty folder."""
    network = network_of(trained.model)
    geometry = Geometry(trained.config.image.size, trained.model.clip.config.vision.patch_size)
    canvas, grid = geometry.canvas, geometry.grid
    (batch,) = export.symbolic_shape("batch")
    weights = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), network.weights)
    exported = export.export(jax.jit(network.apply), platforms=PLATFORMS)(
        weights,
        jax.ShapeDtypeStruct((batch, canvas, canvas, 3), jnp.uint8),
        jax.ShapeDtypeStruct((batch, grid, grid), jnp.float32),
        jax.ShapeDtypeStruct((batch, grid, grid), jnp.bool_),
    )
    (folder / "model.stablehlo").write_bytes(exported.serialize())
    np.savez(folder / "weights.npz", **jax.device_get(network.weights))


# Protocol buffers end at 2 GiB, so larger weights go into a file of their own.
_ONE_FILE_BYTES = 1 << 30


def write_onnx(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a float32 model without LoRA into an existing, empty folder.

    Raises:
        UserError: the converter or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  (the check needs it: say so before the conversion)
        from jax2onnx import to_onnx
    except ImportError as error:
        raise UserError(
            f"The onnx export needs jax2onnx and onnxruntime ({error}). Install them with "
            "pip install 'sapl-jax[onnx]'."
        ) from error
    for name in ("onnx_ir", "jax2onnx"):  # They speak of plugins and types nothing here uses.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    network = network_of(trained.model)
    # The converter must see arrays that JAX can index with traced numbers, not NumPy's.
    weights = jax.tree.map(jnp.asarray, network.weights)
    geometry = Geometry(trained.config.image.size, trained.model.clip.config.vision.patch_size)
    canvas, grid = geometry.canvas, geometry.grid
    with plain_attention():
        model = to_onnx(
            lambda image, edge_map, valid: network.apply(weights, image, edge_map, valid),
            [
                jax.ShapeDtypeStruct(("batch", canvas, canvas, 3), jnp.uint8),
                jax.ShapeDtypeStruct(("batch", grid, grid), jnp.float32),
                jax.ShapeDtypeStruct(("batch", grid, grid), jnp.bool_),
            ],
            model_name="sapl",
            return_mode="proto",
        )
    apart = sum(array.nbytes for array in weights.values()) > _ONE_FILE_BYTES
    file = folder / "model.onnx"
    onnx.save_model(model, file, save_as_external_data=apart, location="model.onnx.data")


def merged(trained: TrainedModel) -> TrainedModel:
    """The same model with LoRA merged into CLIP's weights."""
    clip = merge_lora(trained.model.clip)
    return trained._replace(model=with_parts(trained.model, clip=clip))


def write_orbax(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a model without LoRA into an existing, empty folder."""
    params, frozen = split_model(trained.model)
    checkpoint = CheckpointFolder(folder / ORBAX_WEIGHTS)
    step = int(trained.source["step"])
    tree = {"trained": params, "clip": as_float32(frozen.params)}
    checkpoint.save(step, tree, {"clip": describe(trained, "orbax")["source"]["clip"]})
    checkpoint.wait()
    checkpoint.close()
    for note in (folder / ORBAX_WEIGHTS).rglob("commit_success.txt"):
        note.write_text("complete\n")  # Orbax looks for the file; its text names our folders.


WRITERS: dict[str, Callable[[TrainedModel, Path], None]] = {
    "orbax": write_orbax,
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "huggingface": write_huggingface,
}
