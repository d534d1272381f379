"""Finds the demo's model, which comes with the package."""

from pathlib import Path

from sapl_jax.errors import UserError
from sapl_jax.exporting.description import is_export

FOLDER = Path(__file__).parent.parent / "assets" / "demo_model"
NOTICE = (
    "No --checkpoint was given: using the demo's model. It was trained on small generated pictures "
    "only, so its answers on photographs mean nothing. Train your own: docs/training.md."
)


def demo_model() -> Path:
    """The folder of the demo's model, an orbax export; UserError where it did not come along."""
    if not is_export(FOLDER):
        raise UserError(
            "No --checkpoint was given, and the demo's model is not in this installation "
            f"({FOLDER}). Give a training run's folder or an export with --checkpoint DIR; "
            "`python -m sapl_jax.demo` makes a run in demo/run."
        )
    return FOLDER
