"""Trains SAPL: sapl train --config.data.root=/data/CASIA2 --workdir runs/sapl.

Run the same command again to continue a run. The configuration is the paper's, configs/sapl.py,
which explains every field, unless --config names another. What can be wrong with a command line, a
data root or a work directory is said before JAX is imported or weights fetched.
"""

import logging
import os
import signal
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.prepared import Prepared, fingerprint, open_prepared
from data_pipelines.preprocess import Geometry
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.inference.export_folder import is_export
from sapl_jax.training.configuration import PAPER, check_data, load_config
from sapl_jax.workdir import flat, open_workdir, remember_data, trained_on

if TYPE_CHECKING:
    from sapl_jax.training.loop import TrainingData  # loads JAX

log = logging.getLogger(__name__)


def record_data(prepared: Prepared, config: ConfigDict) -> "TrainingData":
    """This process's share of prepared records."""
    import jax

    from data_pipelines import record_batches
    from sapl_jax.training.loop import TrainingData

    data, train, count = config.data, config.train, jax.process_count()
    place = {"process_index": jax.process_index(), "process_count": count}
    train_batches = partial(
        record_batches.train_batches,
        prepared,
        seed=config.seed,
        horizontal_flip=data.flip_horizontal,
        vertical_flip=data.flip_vertical,
        jpeg_share=data.jpeg_share,
        pairs=data.pairs,
        batch_size=train.batch_size // count,
        **place,
    )
    train_batches()  # What it refuses is told before anything is compiled.
    each = (train.eval_batch_size or train.batch_size) // count
    val_batches = partial(record_batches.eval_batches, prepared, batch_size=each, **place)
    seen = 2 * len(prepared.pairs) if data.pairs else prepared.num_examples("train")
    return TrainingData(seen, train_batches, val_batches)


def prepare_records(config: ConfigDict, patch: int, workdir: Path) -> Prepared:
    """The prepared records the configuration asks for, made now if they are not there yet.

    Without `data.root`, `data.prepared` must be a folder that `data_pipelines.prepare` made; one
    of both is given (`check_data`). A run that continues needs the records it was started on, not
    the pictures behind them.

    Raises:
        UserError: the data cannot be prepared, or are not those the run was started on.
    """
    from data_pipelines.prepare import prepare  # TensorFlow Datasets

    data = config.data
    geometry = Geometry(size=config.image.size, patch=patch)
    options = EdgeOptions.from_config(config.image)
    before = trained_on(workdir)
    if before and data.root:
        if not Path(data.root).expanduser().exists():
            gone = "%s is gone; continuing on the records made of it, %s"
            log.warning(gone, data.root, before["dir"])
            return open_prepared(before["dir"])
        listing = read_dataset(data.dataset, data.root, both_classes=True)
        mark = fingerprint(listing, geometry, options, data.val_fraction, config.seed)
        _refuse_other_data(workdir, before, data.root, mark)
    if data.root:
        given = data.dataset, data.root, data.prepared or None, geometry, options
        return prepare(*given, seed=config.seed, val_fraction=data.val_fraction)
    prepared = open_prepared(data.prepared)
    made = prepared.geometry, prepared.options, prepared.val_fraction
    if made != (wanted := (geometry, options, data.val_fraction)):
        raise UserError(
            f"{data.prepared} was prepared with {made}; this configuration needs {wanted}: sizes, "
            "edges and the share held out. Prepare it again, or give --config.data.root."
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


def main() -> int | None:
    """Flags to a run; 143 or 130 when SIGTERM or Ctrl-C stopped it (its state is saved)."""
    parser = Parser("sapl train", __doc__, allow_abbrev=False)
    parser.add_argument("--config", default=PAPER, help="FILE.py (default: configs/sapl.py)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/sapl"), help="folder of the run")
    given, overrides = parser.parse_known_args()
    config, workdir = load_config(given.config, overrides), given.workdir
    if is_export(workdir):
        raise UserError(f"{workdir} is an export of a trained model: give another --workdir.")
    alone = not os.environ.get("SAPL_COORDINATOR")  # Else JAX must say which process writes.
    with ExitStack() as stack:
        if alone:
            stack.enter_context(open_workdir(workdir, config))
        check_data(config, workdir)
        # These load JAX: not before what was given is known to be good.
        import jax
        from jax.experimental import multihost_utils

        from sapl_jax import devices, processes

        processes.start_runtime()
        dtype = devices.compute_dtype(config.train.dtype)
        for name in ("batch_size", "eval_batch_size"):
            if size := config.train[name]:
                devices.check_batch_size(f"config.train.{name}", size, jax.device_count())
        share = config.train.batch_size // jax.device_count()
        least = 4 if config.data.pairs else 2  # Two pictures of a pair have the same edges.
        if config.model.edges == "another" and share < least:
            raise UserError(
                f"--config.model.edges is another, and a device's share of the batch is {share}: "
                f"expected at least {least}. Raise --config.train.batch_size or use fewer devices."
            )
        processes.report_devices(dtype)
        # Under the next: a process of several that must leave does not wait for it.
        pool = stack.enter_context(ThreadPoolExecutor(1))
        stack.enter_context(processes.leave_on_error())
        multihost_utils.sync_global_devices("met")  # A first collective later waits only 30 s.
        first = jax.process_index() == 0
        if first and not alone:
            stack.enter_context(open_workdir(workdir, config))
        from data_pipelines.prepare import summary
        from sapl_jax.models.sapl import open_sapl
        from sapl_jax.training.loop import train

        model, read = open_sapl(config, dtype)
        # Meanwhile the data are prepared and the step is compiled.
        reading = pool.submit(read)
        del read  # It holds the file.
        prepared = prepare_records(config, model.clip.config.vision.patch_size, workdir)
        if not alone:
            reading.result()  # Several processes compile nothing while CLIP is read.
        places = "data.root", "data.prepared", "clip.pretrained"
        settings = sorted((flat(config.to_dict()) | dict.fromkeys(places)).items())
        clip = model.clip.source.sha256 or config.clip.pretrained  # A random one has no file.
        shared = prepared.counts, prepared.pairs, clip, settings
        mark = np.uint32(zlib.crc32(f"{prepared.fingerprint} {shared}".encode()))
        if len(set(multihost_utils.process_allgather(mark).flat)) > 1:
            raise UserError(
                "The processes of this run have different pictures, weights or settings: give all "
                "the same. (Pictures that one host cannot read are listed in its skipped.json.)"
            )
        if first:
            remember_data(workdir, prepared.dir, prepared.fingerprint)
        log.info(summary(prepared))
        signum = train(config, workdir, model, record_data(prepared, config), reading.result)
    if signum is not None:
        log.warning("stopped by %s; run the same command to continue", signal.Signals(signum).name)
        return 128 + signum
    log.info("done: checkpoints and metrics are in %s", workdir)
    return None


if __name__ == "__main__":
    run_main(main)
