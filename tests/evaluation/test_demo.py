"""The demo's command from nothing to a report, made small; and run again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "sapl_jax" / "assets" / "demo_clip").is_dir(),
    reason="the backbone is not in this checkout",
)


def run_demo(output: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable, "-m", "sapl_jax.demo", "--output", str(output),
        "--train_images=24", "--test_images=8", "--config.train.num_steps=3",
        "--config.train.batch_size=4", "--config.train.eval_batch_size=4",
        "--config.train.warmup_steps=1",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_demo_reports_and_a_second_run_repeats_it(tmp_path) -> None:
    first = run_demo(tmp_path / "demo")
    assert first.returncode == 0, first.stderr
    for method in ("SAPL", "everything tampered", "random", "edge map alone"):
        assert method in first.stdout
    assert "goal at least 0.90" in first.stdout
    html = (tmp_path / "demo" / "report.html").read_text()
    assert "data:image/png;base64," in html and 'src="http' not in html
    for heading in ("Training", "ROC", "Best pictures", "Worst pictures"):
        assert f">{heading}<" in html
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["datasets"]["held-out"]["images"] == 8

    metrics = (tmp_path / "demo" / "run" / "metrics.jsonl").read_text()
    second = run_demo(tmp_path / "demo")
    assert second.returncode == 0, second.stderr
    assert (tmp_path / "demo" / "run" / "metrics.jsonl").read_text() == metrics
    again = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert again["datasets"]["held-out"]["p_f1"] == results["datasets"]["held-out"]["p_f1"]
    assert again["datasets"]["held-out"]["i_auc"] == results["datasets"]["held-out"]["i_auc"]


def test_a_foreign_folder_is_refused(tmp_path) -> None:
    folder = tmp_path / "demo" / "data" / "train"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    done = run_demo(tmp_path / "demo")
    assert done.returncode == 2 and "not empty" in done.stderr
    assert "Traceback" not in done.stderr
