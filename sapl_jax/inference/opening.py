"""Opens a trained model: a training run, an export, or the one that comes with the package."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from sapl_jax import devices
from sapl_jax.checkpoints import CheckpointFolder, check_clip
from sapl_jax.clip.config import CLIPConfig, TextConfig, VisionConfig
from sapl_jax.clip.model import CLIP, CLIPSource
from sapl_jax.errors import UserError, check_checkpoint
from sapl_jax.inference import calibration
from sapl_jax.inference.export_folder import FILE, read_description
from sapl_jax.models.sapl import SAPL, assemble_sapl, build_sapl
from sapl_jax.training.configuration import PAPER, load_config
from sapl_jax.training.state import init_state, make_optimizer, merge_model, split_model
from sapl_jax.workdir import CONFIG_FILE, FREE_FIELDS, config_of, flat, read_config

log = logging.getLogger(__name__)

ORBAX_WEIGHTS = "weights"  # the folder of an export's arrays
SHIPPED = Path(__file__).parent.parent / "assets" / "photographs_model"
NOTICE = (
    "No --checkpoint was given: using the package's small model for photographs, a hint and no "
    "evidence. On forgeries it never saw: I-AUC .82, P-AUC .83, P-F1 .43 (no skill: .50, .50, "
    ".20); on real ones of others I-AUC .51 and .65, P-AUC .73 and .72: docs/model_card.md."
)


class TrainedModel(NamedTuple):
    """A model with its weights.

    Attributes:
        model: SAPL with CLIP inside.
        config: the configuration it was trained with.
        source: what to say of the weights in reports: "checkpoint" (series/step), "step", "clip"
            (name, revision, file and sha256 of CLIP's own weights), "weights" (their folder), their
            "fingerprint", and their "calibration" where there is one.
    """

    model: SAPL
    config: ConfigDict
    source: dict[str, Any]


def load_model(
    checkpoint: str | Path | None, dtype: str | None = None, which: str | None = None
) -> TrainedModel:
    """The model that `Localizer.load` opens, with its LoRA if it has one; same arguments."""
    if checkpoint is None:
        log.warning(NOTICE)
    folder = Path(checkpoint or SHIPPED)
    check_checkpoint(folder)
    if not (folder / FILE).is_file():
        trained = _load_run(folder, dtype, which)
    elif which:
        raise UserError(f"{folder} is an export, which has one checkpoint: leave out --which.")
    else:
        trained = _load_export(folder, dtype)
    found = calibration.read(folder)
    # An export keeps its run's: in one whose LoRA is merged nothing trained may be left apart.
    source = {"fingerprint": calibration.fingerprint(trained.model), **trained.source}
    if found is not None and found.model != source["fingerprint"]:
        what = "%s is of other weights, or of an older export, and is left out: calibrate again"
        log.warning(what, folder / calibration.FILE)
    elif found is not None:
        source["calibration"] = dataclasses.asdict(found)
    return trained._replace(source=source)


def _load_run(workdir: Path, dtype: str | None, which: str | None) -> TrainedModel:
    config = read_config(workdir)
    _require_current(config, workdir)
    checkpoints = workdir / "checkpoints"
    order = ("best", "last") if (which or config.train.get("keep")) == "best" else ("last", "best")
    there = [s for s in order if any(p.name.isdigit() for p in (checkpoints / s).glob("*"))]
    if not there:
        raise UserError(f"{workdir} holds no checkpoint yet: let the run save one first.")
    series = there[0]
    if which and series != which:
        raise UserError(f"{workdir} has no {which} checkpoint, only {series}: leave out --which.")
    place = Path(config.clip.pretrained.removeprefix("random:"))
    if place.is_absolute() and not place.exists():
        where = f"write their folder into {workdir / CONFIG_FILE} (clip.pretrained)"
        raise UserError(f"{place}: this run's CLIP weights are not there any more; {where}.")
    model = build_sapl(config, devices.compute_dtype(dtype or config.train.dtype))
    params, frozen = split_model(model)
    tx, dim = make_optimizer(config.train), model.feature_dim
    template = jax.eval_shape(lambda p: init_state(p, tx, config, dim), params)
    folder, step = _newest(checkpoints / series)
    clip = folder.record(step)["clip"]
    check_clip(clip, dataclasses.asdict(model.clip.source))
    state = folder.restore(step, template)
    folder.close()
    weights = str(checkpoints / series / str(step))
    source = {"checkpoint": f"{series}/{step}", "step": step, "clip": clip, "weights": weights}
    return TrainedModel(merge_model(state.params, frozen), config, source)


def _load_export(folder: Path, dtype: str | None) -> TrainedModel:
    content = read_description(folder)
    if content["kind"] != "orbax":
        raise UserError(
            f"{folder} is a {content['kind']} export, which this package does not open (its "
            "README.md says what does). Give a training run's folder or an export made with "
            "--format orbax."
        )
    config = config_of(content["config"])
    _require_current(config, folder)
    source = CLIPSource(**content["source"]["clip"])
    compute = devices.compute_dtype(dtype or config.train.dtype)
    given = content["clip"]
    towers = {"vision": VisionConfig(**given["vision"]), "text": TextConfig(**given["text"])}
    clip_config = CLIPConfig(**given | towers)

    def build() -> SAPL:
        clip = CLIP(clip_config, source, compute, None)
        return assemble_sapl(clip, content["class_ids"], config)

    # Abstract: no random weights are made only to be replaced.
    params, frozen = split_model(nnx.eval_shape(build))
    weights = folder / ORBAX_WEIGHTS
    if not weights.is_dir():
        raise UserError(f"{folder} has no {ORBAX_WEIGHTS} folder: copy or make the export again.")
    checkpoint, step = _newest(weights)
    clip = jax.eval_shape(lambda tree: optax.tree.cast(tree, jnp.float32), frozen.params)
    tree = checkpoint.restore(step, {"trained": params, "clip": clip})
    checkpoint.close()
    frozen = frozen._replace(params=optax.tree.cast_like(tree["clip"], frozen.params))
    source_of_weights = {**content["source"], "weights": str(weights)}
    return TrainedModel(merge_model(tree["trained"], frozen), config, source_of_weights)


def _newest(folder: Path) -> tuple[CheckpointFolder, int]:
    """The checkpoints of a folder, opened to be read, and the newest whole one's step."""
    checkpoints = CheckpointFolder(folder, read_only=True)
    if (step := checkpoints.latest_step()) is None:
        raise UserError(
            f"{folder} holds no whole checkpoint, only unfinished ones: let the run save one, or "
            "make the export again."
        )
    return checkpoints, step


def _require_current(config: ConfigDict, origin: Path) -> None:
    """UserError where the configuration stored in `origin` lacks a field of this version."""
    absent = flat(load_config(PAPER, []).to_dict()).keys() - flat(config.to_dict()).keys()
    absent -= set(FREE_FIELDS)  # Of the run, not of the model.
    parts = ("image.", "clip.", "model.", "train.")
    if missing := sorted(name for name in absent if name.startswith(parts)):
        raise UserError(
            f"{origin} is of another version of sapl_jax, or no run: its configuration has no "
            f"{', '.join(missing[:3])}: {len(missing)} in all. Open it with that version."
        )
