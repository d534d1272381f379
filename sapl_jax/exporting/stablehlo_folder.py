"""The "stablehlo" export: the network as `jax.export` bytes, its weights beside it.

    export.json      configuration and preprocessing
    model.stablehlo  the network for CPU, CUDA and TPU; the batch size is free
    weights.npz      its weights, float32, by name
    run.py           preprocessing and heat maps in NumPy and OpenCV; runs without this package

The weights are an argument of the network rather than constants in it: those of ViT-L/14 are too
large for a program, and would be there once for each platform.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from data_pipelines.preprocess import Geometry
from sapl_jax.exporting import description
from sapl_jax.exporting.network import network_of
from sapl_jax.training.trained import TrainedModel

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
    description.write_description(folder, description.describe(trained, "stablehlo"))
