"""The demo's command from nothing to a report, made small; run again; and killed on its way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sapl_jax.demo import __main__ as demo
from sapl_jax.demo.outcome import PANELS, read_metrics

ROOT = Path(__file__).parents[2]


def command(output: Path) -> list[str]:
    return [
        sys.executable, "-m", "sapl_jax.demo", "--output", str(output),
        "--train_images=24", "--test_images=8", "--config.train.num_steps=3",
        "--config.train.batch_size=4", "--config.train.eval_batch_size=4",
        "--config.train.warmup_steps=1", "--config.train.checkpoint_every=1",
    ]  # fmt: skip


def run_demo(output: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command(output), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    output = tmp_path_factory.mktemp("whole") / "demo"
    done = run_demo(output)
    assert done.returncode == 0, done.stderr
    return output, done


def measured(output: Path) -> dict[str, float]:
    found = json.loads((output / "results.json").read_text())["datasets"]["held-out"]
    return {name: found[name] for name in ("images", "i_auc", "p_f1", "p_auc")}


def losses(output: Path) -> list[tuple[int, float]]:
    lines = (output / "run" / "metrics.jsonl").read_text().splitlines()
    return [(x["step"], x.get("loss", x.get("val_i_auc"))) for x in map(json.loads, lines)]


def test_the_demo_reports_and_a_second_run_repeats_it(finished) -> None:
    output, first = finished
    for method in ("SAPL", "everything tampered", "random", "edge map alone"):
        assert method in first.stdout
    assert "goal at least 0.90" in first.stdout
    html = (output / "report.html").read_text()
    assert "data:image/png;base64," in html and 'src="http' not in html
    for heading in ("Training", "ROC", "Best pictures", "Worst pictures", "On real photographs"):
        assert f">{heading}<" in html
    drawn = {name for names in PANELS.values() for name in names}
    assert drawn <= read_metrics(output / "run" / "metrics.jsonl").keys()
    before = measured(output)
    assert before["images"] == 8

    metrics = (output / "run" / "metrics.jsonl").read_text()
    second = run_demo(output)
    assert second.returncode == 0, second.stderr
    assert (output / "run" / "metrics.jsonl").read_text() == metrics
    assert measured(output) == before


def kill_once(output: Path, is_time: Callable[[], bool]) -> None:
    """Starts the demo and kills all of its processes the moment `is_time()`."""
    process = subprocess.Popen(
        command(output), cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    give_up = time.monotonic() + 240
    while not is_time():
        assert process.poll() is None, "the demo ended before it could be killed"
        assert time.monotonic() < give_up
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_demo_killed_while_generating_and_while_training_ends_as_an_undisturbed_one(
    finished, tmp_path
) -> None:
    output = tmp_path / "demo"
    kill_once(output, lambda: any((output / "data").rglob("*.jpg")))
    assert not (output / "run").exists()
    kill_once(output, lambda: any((output / "run" / "checkpoints" / "last").glob("*")))
    assert not (output / "report.html").exists()
    done = run_demo(output)
    assert done.returncode == 0, done.stderr
    assert measured(output) == measured(finished[0])
    assert losses(output) == losses(finished[0])


def test_pictures_are_of_the_size_that_is_trained_with(tmp_path, monkeypatch) -> None:
    def no_training(flags: list[str]) -> None:
        assert "--config.image.size=96" in flags
        raise RuntimeError  # An OSError would be told as one of writing.

    flags = [*command(tmp_path)[3:], "--config.image.size=96"]
    monkeypatch.setattr(sys, "argv", ["demo", *flags])
    monkeypatch.setattr(demo, "run_command", no_training)
    with pytest.raises(RuntimeError):
        demo.main()
    for folder in (tmp_path / "data" / "train", tmp_path / "data" / "test"):
        assert json.loads((folder / "generator.json").read_text())["size"] == 96


def test_a_foreign_folder_is_refused(tmp_path) -> None:
    folder = tmp_path / "demo" / "data" / "train"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    done = run_demo(tmp_path / "demo")
    assert done.returncode == 2 and "not empty" in done.stderr
    assert "Traceback" not in done.stderr
