"""The "orbax" export: one folder with everything inference needs, without CLIP's own files.

    export.json   configuration, preprocessing, CLIP's sizes, class ids, versions
    weights/      an Orbax checkpoint of float32 arrays: CLIP with LoRA merged, prompts, ECPL, HECL

The arrays have no device axis and come back as host arrays, so any number of devices can open it.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from sapl_jax.clip.lora import merge_lora
from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.errors import UserError
from sapl_jax.exporting import description
from sapl_jax.exporting.network import with_parts
from sapl_jax.models.sapl import SAPL, assemble_sapl
from sapl_jax.training import devices
from sapl_jax.training.checkpoints import CheckpointFolder
from sapl_jax.training.state import merge_model, split_model
from sapl_jax.training.trained import TrainedModel, require_current

WEIGHTS = "weights"


def merged(trained: TrainedModel) -> TrainedModel:
    """The same model with LoRA merged into CLIP's weights."""
    clip = merge_lora(trained.model.clip)
    return trained._replace(model=with_parts(trained.model, clip=clip))


def write_orbax(trained: TrainedModel, folder: Path) -> None:
    """Writes the export of a model without LoRA into an existing, empty folder."""
    params, frozen = split_model(trained.model)
    checkpoint = CheckpointFolder(folder / WEIGHTS)
    step = int(trained.source["step"])
    tree = {"trained": params, "clip": _as_float32(frozen.params)}
    content = description.describe(trained, "orbax")
    checkpoint.save(step, tree, {"clip": content["source"]["clip"]})
    checkpoint.wait()
    checkpoint.close()
    for note in (folder / WEIGHTS).rglob("commit_success.txt"):
        note.write_text("complete\n")  # Orbax looks for the file; its text names our folders.
    description.write_description(folder, content)


def load_orbax(folder: Path, dtype: str | None = None) -> TrainedModel:
    """Reads an export back.

    Args:
      folder: what `write_orbax` wrote.
      dtype: compute type, "float32" or "bfloat16"; None: the configuration's.

    Raises:
      UserError: an export of another format or version, or files are missing or damaged.
    """
    content = description.read_description(folder)
    if content["kind"] != "orbax":
        raise UserError(
            f"{folder} is a {content['kind']} export, which this package does not open (its "
            "README.md says what does). Give a training run's folder or an export made with "
            "--format orbax."
        )
    config = description.training_config(content)
    require_current(config, folder)
    source = CLIPSource(**content["source"]["clip"])
    compute = devices.compute_dtype(dtype or config.train.dtype)

    def build() -> SAPL:
        clip = CLIP(description.clip_config(content), source, compute, nnx.Rngs(0))
        return assemble_sapl(clip, content["class_ids"], config)

    # Abstract: no random weights are made only to be replaced.
    params, frozen = split_model(nnx.eval_shape(build))
    if not (folder / WEIGHTS).is_dir():
        raise UserError(f"{folder} has no {WEIGHTS} folder: copy or make the export again.")
    checkpoint = CheckpointFolder(folder / WEIGHTS, read_only=True)
    step = checkpoint.latest_step()
    if step is None:
        raise UserError(f"{folder / WEIGHTS} holds no checkpoint: make the export again.")
    template = {"trained": params, "clip": jax.eval_shape(_as_float32, frozen.params)}
    tree = checkpoint.restore(step, template)
    checkpoint.close()
    clip_params = jax.tree.map(
        lambda array, wanted: array.astype(wanted.dtype), tree["clip"], frozen.params
    )
    model = merge_model(tree["trained"], frozen._replace(params=clip_params))
    return TrainedModel(model, config, {**content["source"], "weights": str(folder)})


def _as_float32(tree):
    return jax.tree.map(lambda array: array.astype(jnp.float32), tree)
