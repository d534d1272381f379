"""The "onnx" export: the network as an ONNX model with a free batch size.

    export.json  configuration and preprocessing
    model.onnx   the network and, up to a gigabyte, its weights; larger ones are in model.onnx.data
    run.py       preprocessing and heat maps in NumPy and OpenCV; runs without this package

Needs the extra "onnx": jax2onnx, which converts the network, and onnxruntime, which checks it.
"""

import logging
from pathlib import Path

import jax
import jax.numpy as jnp

from data_pipelines.preprocess import Geometry
from sapl_jax.clip.attention import plain_attention
from sapl_jax.errors import UserError
from sapl_jax.exporting import description
from sapl_jax.exporting.network import network_of
from sapl_jax.training.trained import TrainedModel

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
    description.write_description(folder, description.describe(trained, "onnx"))
