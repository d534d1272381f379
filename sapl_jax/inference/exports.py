"""Reads the weights of an Orbax export back."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax import devices
from sapl_jax.checkpoints import CheckpointFolder
from sapl_jax.clip.config import CLIPConfig, TextConfig, VisionConfig
from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.errors import UserError
from sapl_jax.inference.export_folder import read_description
from sapl_jax.inference.trained import TrainedModel, require_current
from sapl_jax.models.sapl import SAPL, assemble_sapl
from sapl_jax.training.state import PyTree, merge_model, split_model
from sapl_jax.workdir import config_of

ORBAX_WEIGHTS = "weights"


def load_orbax(folder: Path, dtype: str | None = None) -> TrainedModel:
    """Reads an export back.

    Args:
        folder: what `write_orbax` wrote.
        dtype: compute type, "float32" or "bfloat16"; None: the configuration's.

    Raises:
        UserError: an export of another format or version, or files are missing or damaged.
    """
    content = read_description(folder)
    if content["kind"] != "orbax":
        raise UserError(
            f"{folder} is a {content['kind']} export, which this package does not open (its "
            "README.md says what does). Give a training run's folder or an export made with "
            "--format orbax."
        )
    config = config_of(content["config"])
    require_current(config, folder)
    source = CLIPSource(**content["source"]["clip"])
    compute = devices.compute_dtype(dtype or config.train.dtype)

    def build() -> SAPL:
        clip = CLIP(_clip_config(content), source, compute, nnx.Rngs(0))
        return assemble_sapl(clip, content["class_ids"], config)

    # Abstract: no random weights are made only to be replaced.
    params, frozen = split_model(nnx.eval_shape(build))
    if not (folder / ORBAX_WEIGHTS).is_dir():
        raise UserError(f"{folder} has no {ORBAX_WEIGHTS} folder: copy or make the export again.")
    checkpoint = CheckpointFolder(folder / ORBAX_WEIGHTS, read_only=True)
    step = checkpoint.latest_step()
    if step is None:
        raise UserError(f"{folder / ORBAX_WEIGHTS} holds no checkpoint: make the export again.")
    template = {"trained": params, "clip": jax.eval_shape(as_float32, frozen.params)}
    tree = checkpoint.restore(step, template)
    checkpoint.close()
    clip_params = jax.tree.map(
        lambda array, wanted: array.astype(wanted.dtype), tree["clip"], frozen.params
    )
    model = merge_model(tree["trained"], frozen._replace(params=clip_params))
    return TrainedModel(
        model, config, {**content["source"], "weights": str(folder / ORBAX_WEIGHTS)}
    )


def _clip_config(content: dict[str, Any]) -> CLIPConfig:
    """CLIP's configuration in a description."""
    fields = dict(content["clip"])
    vision, text = VisionConfig(**fields.pop("vision")), TextConfig(**fields.pop("text"))
    return CLIPConfig(vision=vision, text=text, **fields)


def as_float32(tree: PyTree) -> PyTree:
    """The tree with every array in float32."""
    return jax.tree.map(lambda array: array.astype(jnp.float32), tree)
