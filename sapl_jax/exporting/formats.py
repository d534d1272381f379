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

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import export

from sapl_jax.checkpoints import CheckpointFolder, flatten
from sapl_jax.clip.attention import plain_attention
from sapl_jax.clip.weights import save_clip
from sapl_jax.errors import UserError
from sapl_jax.inference.opening import ORBAX_WEIGHTS, TrainedModel
from sapl_jax.models.sapl import score_and_patch_map, with_parts
from sapl_jax.training.state import merge_model, split_model
from sapl_jax.training.step import batch_shapes

# Protocol buffers end at 2 GiB, so larger weights go into a file of their own.
_ONE_FILE_BYTES = 1 << 30


def _network(
    trained: TrainedModel, batch: Any
) -> tuple[dict[str, jax.Array], Callable[..., tuple[jax.Array, jax.Array]], list[Any]]:
    """The arrays that a model needs by name, (arrays, *inputs) -> as `score_and_patch_map`, inputs.

    Inputs are described for a symbolic batch size. HECL's heads, which only training uses, are left
    out.
    """
    params, frozen = split_model(with_parts(trained.model, heads=None))
    weights = {"trained": params, "clip": frozen.params}
    structure, flat = jax.tree.structure(weights), flatten(weights)

    def apply(arrays: dict[str, Any], *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        # A dict's leaves come back in the order of its keys; the names are in that of the tree.
        tree = jax.tree.unflatten(structure, [arrays[name] for name in flat])
        sapl = merge_model(tree["trained"], frozen._replace(params=tree["clip"]))
        return score_and_patch_map(sapl, *inputs)

    patch = trained.model.clip.config.vision.patch_size
    return flat, apply, list(batch_shapes(trained.config, patch, (batch,)).values())


def write_orbax(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a model without LoRA into an existing, empty folder, as all below."""
    params, frozen = split_model(trained.model)
    checkpoint = CheckpointFolder(folder / ORBAX_WEIGHTS)
    tree = {"trained": params, "clip": optax.tree.cast(frozen.params, jnp.float32)}
    checkpoint.save(int(trained.source["step"]), tree, {})  # export.json has the rest.
    checkpoint.close()
    for note in (folder / ORBAX_WEIGHTS).rglob("commit_success.txt"):
        note.write_text("complete\n")  # Orbax looks for the file; its text names our folders.


def write_stablehlo(trained: TrainedModel, folder: Path) -> None:
    """Writes the program and the weights of a float32 model."""
    weights, apply, inputs = _network(trained, *export.symbolic_shape("batch"))
    described = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    jax.config.update("jax_hlo_source_file_canonicalization_regex", ".*")  # None of our paths.
    exporter = export.export(jax.jit(apply), platforms=("cpu", "cuda", "tpu"))
    (folder / "model.stablehlo").write_bytes(exporter(described, *inputs).serialize())
    np.savez(folder / "weights.npz", **jax.device_get(weights))


def write_onnx(trained: TrainedModel, folder: Path) -> None:
    """Converts a float32 model; UserError where converter or onnxruntime is not installed."""
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
    arrays, apply, inputs = _network(trained, "batch")
    # The converter must see arrays that JAX can index with traced numbers, not NumPy's.
    weights = jax.tree.map(jnp.asarray, arrays)
    with plain_attention():
        network = functools.partial(apply, weights)
        model = to_onnx(network, inputs, model_name="sapl", return_mode="proto")
    apart = sum(array.nbytes for array in weights.values()) > _ONE_FILE_BYTES
    file = folder / "model.onnx"
    onnx.save_model(model, file, save_as_external_data=apart, location="model.onnx.data")


def write_huggingface(trained: TrainedModel, folder: Path) -> None:
    """Writes CLIP of a float32 model."""
    save_clip(trained.model.clip, folder).chmod(0o644)  # safetensors makes it private


WRITERS: dict[str, Callable[[TrainedModel, Path], None]] = {
    "orbax": write_orbax,
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "huggingface": write_huggingface,
}
