"""Opens a trained model: a training run, an export, or the one that comes with the package."""

import dataclasses
import logging
from pathlib import Path

from sapl_jax.errors import UserError, check_checkpoint
from sapl_jax.inference import calibration
from sapl_jax.inference.export_folder import is_export
from sapl_jax.inference.exports import load_orbax
from sapl_jax.inference.trained import TrainedModel, load_trained

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent.parent / "assets" / "demo_model"
NOTICE = (
    "No --checkpoint was given: using the demo's model. It was trained on small generated pictures "
    "only, so its answers on photographs mean nothing. Train your own: docs/training.md."
)


def load_model(
    checkpoint: str | Path, dtype: str | None = None, which: str | None = None
) -> TrainedModel:
    """The model that `Localizer.load` opens, with its LoRA if it has one; same arguments.

    Its source has a "fingerprint" of the weights, and a "calibration" where one is beside them.
    """
    folder = Path(checkpoint)
    check_checkpoint(folder)
    if not is_export(folder):
        trained = load_trained(folder, dtype, which)
    elif which:
        raise UserError(f"{folder} is an export, which has one checkpoint: leave out --which.")
    else:
        trained = load_orbax(folder, dtype)
    found = calibration.read(folder)
    source = {**trained.source, "fingerprint": calibration.fingerprint(trained.model)}
    if found is not None and found.model != source["fingerprint"]:
        log.warning(
            "%s is of other weights and is left out: calibrate again", folder / calibration.FILE
        )
    elif found is not None:
        source["calibration"] = dataclasses.asdict(found)
    return trained._replace(source=source)


def shipped_model() -> Path:
    """The folder of the demo's model, an orbax export; UserError where it did not come along."""
    if not is_export(SHIPPED):
        raise UserError(
            "No --checkpoint was given, and the demo's model is not in this installation "
            f"({SHIPPED}). Give a training run's folder or an export with --checkpoint DIR; "
            "`python -m sapl_jax.demo` makes a run in demo/run."
        )
    return SHIPPED
