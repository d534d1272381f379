"""Trains SAPL: python -m sapl_jax.train --config configs/sapl.py --workdir runs/sapl.

Run the same command again to continue a run. configs/sapl.py explains every field; change one with
for example --config.data.root=/data/CASIA2.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, config_flags

from data_pipelines import record_batches as records
from data_pipelines.prepare import prepare, summary
from data_pipelines.prepared import Prepared, fingerprint, open_prepared
from data_pipelines.preprocess import Geometry
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax import devices, processes
from sapl_jax.errors import UserError, run_main
from sapl_jax.models.sapl import build_sapl
from sapl_jax.training.checks import check_values
from sapl_jax.training.loop import train
from sapl_jax.workdir import open_workdir, remember_data, trained_on

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", "runs/sapl", "Folder of the run.")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordData:
    """This process's share of prepared records, as `sapl_jax.training.loop.TrainingData`."""

    prepared: Prepared
    config: ConfigDict

    @property
    def num_train(self) -> int:
        """Training pictures over all processes."""
        return self.prepared.num_train

    def train_batches(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Training batches from `start_step` on."""
        return records.train_batches(
            self.prepared,
            batch_size=self.config.train.batch_size // jax.process_count(),
            seed=self.config.seed,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            horizontal_flip=self.config.data.flip_horizontal,
            vertical_flip=self.config.data.flip_vertical,
            jpeg_share=self.config.data.jpeg_share,
        )

    def val_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """The held-out pictures; none where the records have no validation split."""
        if not self.prepared.num_val:
            return iter(())
        size = self.config.train.eval_batch_size or self.config.train.batch_size
        return records.eval_batches(
            self.prepared,
            batch_size=size // jax.process_count(),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def prepare_records(config: ConfigDict, patch: int, workdir: Path) -> Prepared:
    """The prepared records the configuration asks for, made now if they are not there yet.

    Without `data.root`, `data.prepared` must be a folder that `data_pipelines.prepare` made.
    A run that continues needs the records it was started on, and not the pictures behind them.

    Raises:
        UserError: the data cannot be prepared, or are not those the run was started on.
    """
    data = config.data
    geometry = Geometry(size=config.image.size, patch=patch)
    options = EdgeOptions.from_config(config.image)
    before = trained_on(workdir)
    if before and data.root:
        if not Path(data.root).expanduser().exists():
            log.warning(
                "%s is gone; continuing on the records made of it, %s", data.root, before["dir"]
            )
            return open_prepared(before["dir"])
        listing = read_dataset(data.dataset, data.root, both_classes=True)
        mark = fingerprint(listing, geometry, options, data.val_fraction, config.seed)
        _refuse_other_data(workdir, before, data.root, mark)
    if data.root:
        return prepare(
            data.dataset,
            data.root,
            data.prepared or None,
            geometry,
            options,
            seed=config.seed,
            val_fraction=data.val_fraction,
        )
    if not data.prepared:
        raise UserError(
            "No training data was given. Set --config.data.root to the folder that holds Au/ and "
            "Tp/ (CASIA v2.0, or your own pictures with --config.data.dataset=folder)."
        )
    prepared = open_prepared(data.prepared)
    if (prepared.geometry, prepared.options) != (geometry, options):
        raise UserError(
            f"{data.prepared} was prepared with {prepared.geometry} and {prepared.options}; this "
            f"configuration needs {geometry} and {options}. Prepare it again, or give "
            "--config.data.root."
        )
    if before:
        _refuse_other_data(workdir, before, data.prepared, prepared.fingerprint)
    return prepared


def _refuse_other_data(workdir: Path, before: dict[str, str], given: str, mark: str) -> None:
    if mark != before["fingerprint"]:
        raise UserError(
            f"{given} does not hold the pictures that the run in {workdir} was started on "
            f"(fingerprint {mark}, expected {before['fingerprint']}): some were added, removed or "
            "changed. Put them back, continue on the records made of them "
            f"(--config.data.root= --config.data.prepared={before['dir']}), or use a new --workdir."
        )


def main(argv: list[str]) -> int | None:
    """Flags to a run; 143 or 130 when SIGTERM or Ctrl-C stopped it (its state is saved)."""
    if len(argv) > 1:
        raise UserError(f"Unexpected argument {argv[1]!r}. Flags look like --config.seed=1.")
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    if config is None:
        raise UserError("No configuration. The paper's: --config configs/sapl.py")

    processes.start_runtime()
    dtype = devices.compute_dtype(config.train.dtype)
    sizes = {"batch_size": config.train.batch_size, "eval_batch_size": config.train.eval_batch_size}
    for name, size in sizes.items():
        if name == "batch_size" or size:
            devices.check_batch_size(f"config.train.{name}", size, jax.device_count())
    processes.report_devices(dtype)
    first = jax.process_index() == 0
    with processes.leave_on_error(), open_workdir(workdir, config, write=first):
        model = build_sapl(config, dtype)
        prepared = prepare_records(config, model.clip.config.vision.patch_size, workdir)
        multihost_utils.sync_global_devices("data is prepared")
        if first:
            remember_data(workdir, prepared.dir, prepared.fingerprint)
        log.info(summary(prepared))
        signum = train(config, workdir, model, RecordData(prepared, config))
    if signum is not None:
        log.warning("stopped by %s; run the same command to continue", signal.Signals(signum).name)
        return 128 + signum
    log.info("done: checkpoints and metrics are in %s", workdir)
    return None


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line; returns what is no flag. UserError for a mistake in it."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            check_values(_CONFIG.value)  # Also meets a file that could not be loaded.
    # A name or type that the locked configuration does not have comes up as any of these.
    except (
        flags.Error,
        AttributeError,
        KeyError,
        OSError,
        SyntaxError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{_reason(error)}\nconfigs/sapl.py explains every field.") from error
    return rest


def _reason(error: Exception) -> str:
    missing = error if isinstance(error, KeyError) else error.__context__
    if isinstance(missing, KeyError):
        return f"The configuration has no field {missing.args[0]}"
    # An error inside a configuration file arrives with the text of its traceback.
    what, _, trace = str(error).partition("\n\nTraceback")
    return f"{what} {trace.strip().splitlines()[-1]}" if trace else what


if __name__ == "__main__":
    run_main(lambda: main(parse_flags(sys.argv)))
