"""metrics.jsonl and TensorBoard files of a run that was interrupted."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from sapl_jax.training import watching
from sapl_jax.training.watching import MetricWriter, Progress
from tests.training.run_records import metric_lines


def written(workdir, *, start, steps, **more):
    writer = MetricWriter(workdir, start, **more)
    for step in steps:
        writer.write(step, {"loss": 1.0 / step})
    return writer


def test_bar_and_rates_say_what_share_of_the_time_was_waited_for_data(monkeypatch):
    now = 0.0
    monkeypatch.setattr(watching, "time", SimpleNamespace(perf_counter=lambda: now))

    def batches():
        nonlocal now
        for number in range(2):
            now += 1  # second, to read it
            yield number

    progress = Progress(0, 2, batch_size=6, enabled=True)
    for _ in progress.timed(batches()):
        now += 3  # seconds, for the step
        progress.step(0.5)
    assert progress._bar.postfix == "loss 0.5000, 1.5 images/s, 25% waiting for data"
    assert progress.take_rates() == {"images_per_s": 1.5, "input_wait": 0.25}
    progress.close()


def test_lines_after_the_checkpoint_and_torn_lines_are_dropped(tmp_path):
    written(tmp_path, start=0, steps=[1, 2, 3, 4])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    written(tmp_path, start=2, steps=[3]).close()
    assert [row["step"] for row in metric_lines(tmp_path)] == [1, 2, 3]


def test_a_validation_that_is_repeated_is_not_there_twice(tmp_path):
    writer = written(tmp_path, start=0, steps=[1, 2])
    writer.write(2, {"val_i_auc": 0.5})
    kept = written(tmp_path, start=2, steps=[])
    assert sum("val_i_auc" in row for row in metric_lines(tmp_path)) == 1
    kept.close()
    written(tmp_path, start=2, steps=[], validation_due=True).close()
    assert [row["step"] for row in metric_lines(tmp_path)] == [1, 2]


def test_values_that_are_not_finite_are_null_in_the_lines(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": float("nan"), "accuracy": 0.5})
    writer.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {"step": 1, "loss": None, "accuracy": 0.5}


def events(file: Path) -> Iterator[Event]:
    """Of a file as TensorFlow defines it: length, its checksum, the event, its checksum."""
    data, start = file.read_bytes(), 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + length])
        start += length + 16


def test_tensorboard_hides_only_what_came_after_the_checkpoint(tmp_path):
    written(tmp_path, start=0, steps=[1, 2, 3])
    written(tmp_path, start=2, steps=[3]).close()
    starts, losses = [], []
    files = sorted((tmp_path / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for file in files:
        for event in events(file):
            if event.HasField("session_log"):
                starts.append(event.step)
            losses += [(event.step, round(v.simple_value, 3)) for v in event.summary.value]
    assert 3 in starts  # Events of steps 3 and later in older files are out of date; 2 is not.
    assert (2, 0.5) in losses and (3, 0.333) in losses
