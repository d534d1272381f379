"""`launch.sh setup`: complete or not marked as done, and an accelerator that comes later is met."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In place of Python: writes down what pip was to do, and fails as it is told.
PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"-m pip --version"*) [ ! -e "$(dirname "$0")/no_pip" ] ;;
  *"-m pip"*) echo "$*" >>pip.log; sleep "${PIP_SECONDS:-0}"; exit "${PIP_STATUS:-0}" ;;
  *importlib*) echo 0.10.2 ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Runs `launch.sh` in a folder of its own; gives its status and what pip was told."""
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        pytest.skip("this machine may have a TPU")
    for name in ("launch.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    tools, log = tmp_path / "a folder", tmp_path / "pip.log"
    tools.mkdir()
    log.touch()
    (tools / "python").write_text(PYTHON)
    (tools / "python").chmod(0o755)
    (tools / "nvidia-smi").write_text("#!/bin/sh\n")

    def run(command: str, gpu: bool = False, **more: str) -> tuple[int, str]:
        (tools / "nvidia-smi").chmod(0o755 if gpu else 0o644)
        path = f"{tools}:/usr/bin:/bin"
        environment = {"PATH": path, "PYTHON": str(tools / "python"), **more}
        environment |= {"HOME": os.environ.get("HOME", "/")}
        before = log.stat().st_size
        done = subprocess.run(
            ["bash", "launch.sh", command], cwd=tmp_path, env=environment, capture_output=True
        )
        return done.returncode, log.read_text()[before:]

    return run


def test_an_environment_made_without_a_gpu_gets_cuda_where_there_is_one(run) -> None:
    if shutil.which("nvidia-smi", path="/usr/bin:/bin"):
        pytest.skip("this machine has a GPU")
    status, told = run("setup")
    assert status == 0 and "requirements.lock" in told and "jax[" not in told
    assert run("setup") == (0, "")
    status, told = run("setup", gpu=True)
    assert status == 0 and "jax[cuda12]==0.10.2" in told
    for gpu in (True, False):  # as on GPU and login nodes in turns
        assert run("setup", gpu=gpu) == (0, "")


def test_an_environment_for_an_accelerator_that_others_have_is_ready_where_it_is(run) -> None:
    status, told = run("setup", SAPL_ACCELERATOR="cuda12")
    assert status == 0 and "jax[cuda12]==0.10.2" in told
    for gpu in (True, False):  # as on nodes that reach no index of packages
        for asked in ({}, {"SAPL_ACCELERATOR": "cuda12"}, {"SAPL_ACCELERATOR": "cpu"}):
            assert run("setup", gpu=gpu, PIP_STATUS="1", **asked) == (0, "")
    for asked in ("cuda13", "cuda", "rocm"):  # another beside it, and no known ones
        assert run("setup", SAPL_ACCELERATOR=asked) == (2, "")


def test_an_accelerator_that_is_here_is_not_used_where_cpu_is_asked_for(run) -> None:
    for _ in range(2):
        status, told = run("setup", gpu=True, SAPL_ACCELERATOR="cpu")
        assert status == 0 and "jax[" not in told
    assert told == ""


@pytest.mark.parametrize("command", ["setup", "test", "ablation", "python", "train"])
def test_a_setup_that_failed_is_not_taken_for_done(run, tmp_path, command) -> None:
    assert run(command, PIP_STATUS="1")[0] != 0
    assert not (tmp_path / ".venv" / "ready").exists()
    assert run("setup")[0] == 0 and (tmp_path / ".venv" / "ready").exists()


def test_a_half_made_environment_is_completed(run, tmp_path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    broken = tmp_path / ".venv" / "bin" / "python"
    broken.write_text(PYTHON + "\nexit 1\n")
    broken.chmod(0o755)
    (broken.parent / "no_pip").write_text("")
    assert run("setup")[0] == 0
    assert broken.read_text() == PYTHON


@pytest.mark.skipif(not shutil.which("flock", path="/usr/bin:/bin"), reason="needs flock")
def test_of_setups_at_once_one_installs_and_the_others_find_it_ready(run, tmp_path) -> None:
    with ThreadPoolExecutor() as pool:
        setups = [pool.submit(run, "setup", PIP_SECONDS="1") for _ in range(3)]
    assert [setup.result()[0] for setup in setups] == [0, 0, 0]
    assert (tmp_path / "pip.log").read_text().count("requirements.lock") == 1


def test_without_flock_it_is_set_up_as_well(run, tmp_path) -> None:
    (tmp_path / "a folder" / "flock").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "a folder" / "flock").chmod(0o755)
    assert "requirements.lock" in run("setup")[1]
