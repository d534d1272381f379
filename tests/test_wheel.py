"""The wheel alone, in an empty folder: `sapl` trains, and predicts with what it trained."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.test_container import REPOSITORY, copied
from tests.training.run_in_memory import environment


@pytest.fixture
def sapl(tmp_path, monkeypatch):
    """Runs the installed program; the folder it runs in is empty at first."""
    pytest.importorskip("setuptools", "77")
    source, site, here = tmp_path / "source", tmp_path / "site", tmp_path / "here"
    source.mkdir()
    for name, _ in copied():  # what the Dockerfile copies is enough to build from
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, built], check=True)
    here.mkdir()

    def run(*arguments):
        done = subprocess.run(
            [site / "bin" / "sapl", *map(str, arguments)],
            cwd=here,
            env=environment(PYTHONPATH=str(site), HF_HUB_OFFLINE="1"),
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    run.folder = here
    return run


def test_a_wheel_trains_and_predicts_where_nothing_of_the_repository_is(sapl):
    assert not os.listdir(sapl.folder)
    assert "edge-statistics" in sapl("--help")
    sapl("generate", "--output", "pictures", "--images", 16, "--size", 64)
    small = (
        "image.size=64",
        "train.batch_size=4",
        "train.num_steps=2",
        "train.warmup_steps=0",
        "data.prepared=prepared",
    )
    settings = [f"--config.{field}" for field in ("data.root=pictures", *small)]
    sapl("train", "--config", "configs/demo.py", "--workdir", "run", *settings)
    sapl("predict", "--checkpoint", "run", "--output", "out", "pictures/Tp", "--batch-size=8")
    assert len(list((sapl.folder / "out").glob("*_heatmap.png"))) == 8
