"""The training loop: build, continue or start, then step, log, validate, save."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sapl_jax.errors import UserError
from sapl_jax.evaluation.metrics import roc_auc
from sapl_jax.models.sapl import SAPL
from sapl_jax.training import devices as dev
from sapl_jax.training import schedules
from sapl_jax.training.checkpoints import CheckpointFolder
from sapl_jax.training.progress import Progress
from sapl_jax.training.signals import StopRequest
from sapl_jax.training.state import FrozenModel, TrainState, init_state, make_optimizer, split_model
from sapl_jax.training.step import make_score_step, make_train_step
from sapl_jax.training.writers import MetricWriter

log = logging.getLogger(__name__)
NumpyBatch = dict[str, np.ndarray]


class TrainingData(Protocol):
    """What the loop needs of the input; this process's share of every global batch."""

    @property
    def num_train(self) -> int:
        """Training pictures over all processes."""
        ...

    def train_batches(self, start_step: int) -> Iterator[NumpyBatch]:
        """Endless training batches from the given step on, a function of (seed, step) alone."""
        ...

    def val_batches(self) -> Iterator[NumpyBatch]:
        """Every held-out picture once; "weight" is 0 for the padding of the last batch."""
        ...


def total_steps(train: ConfigDict, num_train: int) -> int:
    """Optimizer steps of a run: `num_steps`, or as many as the epochs ask for."""
    return train.num_steps or math.ceil(train.epochs * num_train / train.batch_size)


def train(config: ConfigDict, workdir: Path, model: SAPL, data: TrainingData) -> int | None:
    """Trains in `workdir` until the last step; continues where an earlier run stopped.

    Order at the start: this run's own last checkpoint > CLIP's pretrained weights.

    Args:
      config: see configs/sapl.py.
      workdir: an entered work directory (`open_workdir`).
      model: from `build_sapl`.
      data: this process's input.

    Returns:
      None when the last step is done, else the signal that stopped the run (state saved).

    Raises:
      UserError: the loss is not finite, gradients were not too many times in a row, or the
        checkpoint there does not fit.
    """
    hyper, is_first = config.train, jax.process_index() == 0
    local = jax.local_devices()
    num_steps = total_steps(hyper, data.num_train)
    tx = make_optimizer(hyper)
    params, frozen = split_model(model)
    state = init_state(params, tx, config)

    last = CheckpointFolder(workdir / "checkpoints" / "last", keep=2)
    best = CheckpointFolder(workdir / "checkpoints" / "best", keep=1)
    start = last.latest_step() or 0
    if start:
        state = last.restore(start, state)
        log.info("continuing from step %d of %d", start, num_steps)
    best_step = best.latest_step()
    best_auc = -1.0 if best_step is None else best.record(best_step)["i_auc"]
    state = dev.replicate(state, local)
    frozen = FrozenModel(frozen.graph, dev.replicate(frozen.params, local))

    train_step = make_train_step(
        frozen.graph,
        tx,
        config,
        schedules.learning_rate(hyper, num_steps),
        schedules.hecl_weight(config.model.hecl.weight, num_steps),
        jax.devices(),
    )
    score_step = make_score_step(frozen.graph, jax.devices())
    writer = MetricWriter(workdir, start, enabled=is_first)
    progress = Progress(start, num_steps, hyper.batch_size, enabled=is_first)
    source = vars_of(model)

    def save_last(step: int) -> None:
        last.save(step, state, {"num_steps": num_steps, "clip": source})

    def finish_step(step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the numbers of a step that was dispatched, checks and records them."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        _check_finite(step, values, hyper.max_bad_steps, last)
        progress.step(values["loss"])
        if step % hyper.log_every == 0 or step == num_steps:
            writer.write(step, values | progress.take_rates())

    def validate(step: int) -> None:
        nonlocal best_auc
        i_auc = _validate(score_step, state, frozen, data, local)
        if i_auc is None:
            progress.message(f"step {step}: the validation split has one class, so no I-AUC")
        else:
            writer.write(step, {"val_i_auc": i_auc})
            progress.message(f"step {step}: validation I-AUC {i_auc:.4f}")
            if i_auc > best_auc:
                best_auc = i_auc
                best.save(step, state, {"num_steps": num_steps, "clip": source, "i_auc": i_auc})
        progress.restart_clock()

    batches = progress.timed(dev.shard_batches(data.train_batches(start), local))
    pending: tuple[int, dict[str, jax.Array]] | None = None
    step = start
    try:
        with StopRequest() as stop:
            while step < num_steps and stop.signum is None:
                state, metrics = train_step(state, frozen.params, next(batches))
                step += 1
                # The step just dispatched runs while the numbers of the one before are read.
                if pending is not None:
                    finish_step(*pending)
                pending = (step, metrics)
                ends = step == num_steps
                validates = ends or step % hyper.eval_every == 0
                saves = ends or step % hyper.checkpoint_every == 0
                if validates or saves or jax.default_backend() == "cpu":
                    finish_step(*pending)
                    pending = None
                if validates:
                    validate(step)
                if saves:
                    save_last(step)
            if pending is not None:
                finish_step(*pending)
            if step > start:
                save_last(step)
            last.wait()
            best.wait()
            return stop.signum if step < num_steps else None
    finally:
        progress.close()
        writer.close()
        last.close()
        best.close()


def vars_of(model: SAPL) -> dict[str, str | None]:
    """Where the frozen weights came from, for checkpoint records."""
    source = model.clip.source
    return {
        "name": source.name,
        "revision": source.revision,
        "file": source.file,
        "sha256": source.sha256,
    }


def _check_finite(
    step: int, values: dict[str, float], max_bad_steps: int, last: CheckpointFolder
) -> None:
    if math.isfinite(values["loss"]) and values["bad_steps"] <= max_bad_steps:
        return
    what = (
        f"{values['bad_steps']:.0f} steps in a row had gradients that are not finite"
        if math.isfinite(values["loss"])
        else f"the loss is {values['loss']} (classification {values['loss_cls']}, "
        f"HECL {values['loss_hecl']})"
    )
    last.wait()
    good = last.latest_step()
    kept = f"The last good checkpoint, of step {good}, is kept" if good else "Nothing was saved yet"
    raise UserError(
        f"Stopped at step {step}: {what}. {kept}. Try a lower --config.train.learning_rate or "
        "--config.train.dtype=float32, in a new --workdir."
    )


def _validate(
    score_step, state: TrainState, frozen: FrozenModel, data: TrainingData, local: list[jax.Device]
) -> float | None:
    """I-AUC on the held-out pictures of all processes; None unless they have both classes."""
    labels, scores = [], []
    for batch in data.val_batches():
        inputs = {k: batch[k] for k in ("image", "edge_map", "valid")}
        (placed,) = dev.shard_batches([inputs], local)
        score = np.asarray(score_step(state.params, frozen.params, placed)).reshape(-1)
        label, weight = batch["label"], batch["weight"]
        if jax.process_count() > 1:
            score, label, weight = multihost_utils.process_allgather(
                (score, label, weight), tiled=True
            )
        real = np.asarray(weight) > 0
        labels.append(np.asarray(label)[real])
        scores.append(np.asarray(score)[real])
    if not labels:
        return None
    return roc_auc(np.concatenate(labels), np.concatenate(scores))
