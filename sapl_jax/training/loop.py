"""The training loop: build, continue or start, then step, log, validate, save."""

import dataclasses
import logging
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sapl_jax import devices as dev
from sapl_jax.errors import UserError
from sapl_jax.metrics import roc_auc
from sapl_jax.models.sapl import SAPL
from sapl_jax.training.memory import give_back_memory
from sapl_jax.training.run_checkpoints import RunCheckpoints
from sapl_jax.training.signals import StopRequest
from sapl_jax.training.state import init_state, make_optimizer, split_model
from sapl_jax.training.step import (
    compile_train_step,
    make_score_step,
    make_train_step,
    rate_schedule,
)
from sapl_jax.training.watching import MetricWriter, Profiler, Progress, panels
from sapl_jax.workdir import remember_config

log = logging.getLogger(__name__)
NumpyBatch = dict[str, np.ndarray]


class TrainingData(NamedTuple):
    """What the loop needs of the input; batches are this process's share of the global ones."""

    num_train: int  # training pictures over all processes
    # Endless training batches from the given step on, a function of (seed, step) alone.
    train_batches: Callable[[int], Iterator[NumpyBatch]]
    # Every held-out picture once; "weight" is 0 for the padding of the last batch.
    val_batches: Callable[[], Iterator[NumpyBatch]]


def total_steps(train: ConfigDict, num_train: int) -> int:
    """Optimizer steps of a run: `num_steps`, or as many as the epochs ask for."""
    return train.num_steps or math.ceil(train.epochs * num_train / train.batch_size)


def train(
    config: ConfigDict,
    workdir: Path,
    model: SAPL,
    data: TrainingData,
    finish_reading: Callable[[], None] = lambda: None,
) -> int | None:
    """Trains in an entered `workdir` until the last step; continues where an earlier run stopped.

    Where CLIP's weights are still being read (`open_sapl`), `finish_reading` waits for them, and
    raises what went wrong: the step is compiled before that.

    Order at the start: this run's own newest whole checkpoint > CLIP's pretrained weights.
    All processes of a run stop at the same step when one of them is asked to.

    Returns:
        None when the last step is done, else the signal that stopped the run (state saved).

    Raises:
        UserError: the loss or a score is not finite, gradients were not too many times in a row,
            the disk is full, or the checkpoint there does not fit.
    """
    with StopRequest() as stop:
        hyper, is_first = config.train, jax.process_index() == 0
        local = jax.local_devices()
        num_steps = total_steps(hyper, data.num_train)
        tx = make_optimizer(hyper)
        rate = rate_schedule(hyper, num_steps)
        # w(t) of Eq. (7): linear from 0 at the first step to the end of training.
        weight = optax.linear_schedule(0.0, config.model.hecl.weight, num_steps)
        params, frozen = split_model(model)
        mapped = make_train_step(frozen.graph, tx, config, rate, weight, jax.devices())
        train_step = compile_train_step(mapped, model, tx, config)
        finish_reading()
        params, frozen = split_model(model)
        checkpoints = RunCheckpoints(workdir, dataclasses.asdict(model.clip.source))
        fresh = init_state(params, tx, config, model.feature_dim)
        state, start, validation_due, best_auc = checkpoints.restore(fresh)
        if is_first:
            remember_config(workdir, config)
        if start:
            log.info("continuing from step %d of %d", start, num_steps)
        state = dev.replicate(state, local)
        frozen = frozen._replace(params=dev.replicate(frozen.params, local))

        score_step = make_score_step(frozen.graph, jax.devices())
        writer = MetricWriter(workdir, start, validation_due=validation_due, enabled=is_first)
        progress = Progress(start, num_steps, hyper.batch_size, enabled=is_first)
        profiler = Profiler(hyper.profile_steps, workdir / "profile", enabled=is_first)
        go, halt = dev.stop_flags(local)
        step, stopping = start, False
        dispatched: list[tuple[int, dict[str, jax.Array]]] = []

        def finish_steps(but: int = 0) -> None:
            """Reads the numbers of the steps dispatched but the last, checks and records them."""
            nonlocal stopping
            while len(dispatched) > but:
                step, metrics = dispatched.pop(0)
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                stopping = values.pop("stop") > 0
                _check_finite(step, values, hyper.max_bad_steps, checkpoints)
                if skipped := values["bad_steps"] > 0:
                    in_a_row = f"{values['bad_steps']:.0f} in a row"
                    progress.message(f"step {step}: gradients are not finite; skipped, {in_a_row}")
                progress.step(values["loss"])
                if skipped or step % hyper.log_every == 0 or step == num_steps:
                    writer.write(step, values | progress.take_rates())
                    checkpoints.check()

        def validate(step: int) -> bool:
            """Validates and keeps the best; False when a request to stop came in between."""
            nonlocal best_auc
            found = _scores(lambda b: score_step(state.params, frozen.params, b), data, local, stop)
            if found is None:
                return False
            labels, scores, shown = found
            if bad := np.sum(~np.isfinite(scores)):
                what = f"{bad} of {len(scores)} scores of the validation are not finite"
                raise _stopped(step, what, checkpoints, before=step)
            i_auc = roc_auc(labels, scores)
            writer.write(step, {} if i_auc is None else {"val_i_auc": i_auc}, shown)
            if i_auc is not None:
                progress.message(f"step {step}: validation I-AUC {i_auc:.4f}")
                if np.float32(i_auc) > np.float32(best_auc):  # As processes are sent the best.
                    best_auc = i_auc
                    checkpoints.save("best", step, state, i_auc=i_auc)
            elif len(labels):
                progress.message(f"step {step}: the validation split has one class, so no I-AUC")
            else:
                progress.message(f"step {step}: no validation split, so no best checkpoint")
            progress.restart_clock()
            return True

        batches = progress.timed(dev.shard_batches(data.train_batches(start), local))
        try:
            if validation_due:
                validation_due = stopping = not validate(step)
            while step < num_steps and not stopping:
                profiler.at(step, state)
                flag = go if stop.signum is None else halt
                state, metrics = train_step(state, frozen.params, next(batches) | flag)
                step += 1
                dispatched.append((step, metrics))
                ends = step == num_steps
                validation_due = ends or step % hyper.eval_every == 0
                saves = ends or step % hyper.checkpoint_every == 0
                # Else the step just dispatched runs while the numbers of the one before are read.
                now = validation_due or saves or jax.default_backend() == "cpu"
                finish_steps(but=0 if now else 1)
                if step == start + 1:
                    give_back_memory()
                if validation_due and not stopping:
                    validation_due = stopping = not validate(step)
                if saves and not stopping:
                    checkpoints.save("last", step, state, validation_due=False)
            finish_steps()
            if step > start:
                checkpoints.save("last", step, state, validation_due=validation_due)
            profiler.close(state)
            checkpoints.wait()
            multihost_utils.sync_global_devices("the run is saved")
            if step < num_steps or validation_due:
                return stop.signum or signal.SIGTERM
            return None
        finally:
            profiler.close()
            progress.close()
            checkpoints.close()
            writer.close()


def _check_finite(step: int, values: dict[str, float], most: int, saved: RunCheckpoints) -> None:
    if not math.isfinite(values["loss"]):
        parts = f"classification {values['loss_cls']}, HECL {values['loss_hecl']}"
        what = f"the loss is {values['loss']} ({parts})"
        raise _stopped(step, what, saved, before=step - 1)  # That model gave the loss.
    if values["bad_steps"] > most:
        what = f"{values['bad_steps']:.0f} steps in a row had gradients that are not finite"
        raise _stopped(step, what, saved, before=step)


def _stopped(step: int, what: str, checkpoints: RunCheckpoints, before: int) -> UserError:
    checkpoints.wait()
    good = checkpoints.latest_step(before)
    kept = f"The last good checkpoint, of step {good}, is kept" if good else "No good one was saved"
    return UserError(
        f"Stopped at step {step}: {what}. {kept}. Try a lower --config.train.learning_rate or "
        "--config.train.dtype=float32, in a new --workdir."
    )


def _scores(
    score: Callable[[Any], tuple[jax.Array, jax.Array]],
    data: TrainingData,
    local: list[jax.Device],
    stop: StopRequest,
) -> tuple[np.ndarray, np.ndarray, NumpyBatch] | None:
    """Labels and scores of the held-out pictures of all processes, and pictures to look at.

    The latter are the same each time, from this process's first batch. None, in all processes at
    the same batch, when one of them is asked to stop.
    """
    shown: NumpyBatch = {}
    labels, scores = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for batch in data.val_batches():
        inputs = {k: batch[k] for k in ("image", "edge_map", "valid")}
        (placed,) = dev.shard_batches([inputs], local)
        some, heat = map(np.asarray, score(placed))
        shown = shown or panels(batch, heat.reshape(-1, *heat.shape[2:]))
        own = some.reshape(-1), batch["label"], batch["weight"], np.asarray([bool(stop.signum)])
        some, label, weight, stopped = multihost_utils.process_allgather(own, tiled=True)
        if np.any(stopped):
            return None
        labels.append(label[weight > 0])
        scores.append(some[weight > 0])
    return np.concatenate(labels), np.concatenate(scores), shown
