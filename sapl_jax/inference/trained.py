"""A trained model, and reading it back from a training run."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from configs.sapl import get_config
from sapl_jax import devices
from sapl_jax.checkpoints import CheckpointFolder
from sapl_jax.errors import UserError
from sapl_jax.models.sapl import SAPL, build_sapl
from sapl_jax.training.state import init_state, make_optimizer, merge_model, split_model
from sapl_jax.workdir import FREE_FIELDS, flat, read_config


class TrainedModel(NamedTuple):
    """A model with its weights.

    Attributes:
        model: SAPL with CLIP inside.
        config: the configuration it was trained with.
        source: what to say of the weights in reports: "checkpoint" (series/step), "step", "clip"
            (name, revision, file and sha256 of CLIP's own weights), "weights" (their folder).
    """

    model: SAPL
    config: ConfigDict
    source: dict[str, Any]


def load_trained(workdir: Path, dtype: str | None = None, which: str | None = None) -> TrainedModel:
    """A checkpoint of a training run.

    Args:
        workdir: a work directory of `sapl_jax.train`.
        dtype: compute type, "float32" or "bfloat16"; None: the configuration's.
        which: "last", or "best" by validation I-AUC; None: the configuration's `train.keep`, or
            the other where there is none of it.

    Raises:
        UserError: nothing there, or CLIP's weights are not those the run was trained on.
    """
    config = read_config(workdir)
    require_current(config, workdir)
    checkpoints = workdir / "checkpoints"
    order = ("best", "last") if (which or config.train.keep) == "best" else ("last", "best")
    there = [name for name in order if _has_steps(checkpoints / name)]
    if not there:
        raise UserError(f"{workdir} holds no checkpoint yet: let the run save one first.")
    series = there[0]
    if which and series != which:
        raise UserError(f"{workdir} has no {which} checkpoint, only {series}: leave out --which.")
    model = build_sapl(config, devices.compute_dtype(dtype or config.train.dtype))
    params, frozen = split_model(model)
    tx, dim = make_optimizer(config.train), model.feature_dim
    template = jax.eval_shape(lambda p: init_state(p, tx, config, dim), params)
    folder = CheckpointFolder(checkpoints / series, read_only=True)
    step = folder.latest_step()
    if step is None:
        raise UserError(f"{checkpoints / series} holds no whole checkpoint; only unfinished ones.")
    record = folder.record(step)
    _check_clip(record["clip"], model)
    state = folder.restore(step, template)
    folder.close()
    source = {
        "checkpoint": f"{series}/{step}",
        "step": step,
        "clip": record["clip"],
        "weights": str(checkpoints / series / str(step)),
    }
    return TrainedModel(merge_model(state.params, frozen), config, source)


def require_current(config: ConfigDict, origin: Path) -> None:
    """UserError where a stored configuration lacks a field that this version reads.

    Args:
        config: of a run or an export.
        origin: its folder, for the message.
    """
    found = flat(config.to_dict())
    missing = [
        name
        for name in flat(get_config().to_dict())
        if name not in found
        and name.startswith(("image.", "clip.", "model.", "train."))
        and name not in FREE_FIELDS  # of the run, not of the model
    ]
    if missing:
        raise UserError(
            f"{origin} was written by another version of sapl_jax: its configuration has no "
            f"{', '.join(missing)}. Open it with that version, or train again."
        )


def _has_steps(folder: Path) -> bool:
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _check_clip(trained_on: dict[str, Any], model: SAPL) -> None:
    now = model.clip.source
    if trained_on["sha256"] != now.sha256:
        raise UserError(
            f"The run was trained on CLIP {trained_on['name']} ({trained_on['file']}, sha256 "
            f"{trained_on['sha256']}); {now.name} now has {now.file} with sha256 {now.sha256}. "
            "Restore the weights file the run was trained on."
        )
