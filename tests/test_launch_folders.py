"""`launch.sh` from another folder: what the user's relative paths mean, and whose code is run."""

import os
import subprocess
import sys

import pytest

from tests.ready_environment import LAUNCH, make


@pytest.fixture
def launch(tmp_path):
    """Runs `launch.sh` by a relative path in a folder of the user's; gives that and the outcome."""
    here = tmp_path / "photos"
    (here / "configs").mkdir(parents=True)  # Python would take it for the project's.
    python = f'case $2 in sapl_jax*) exec "{sys.executable}" "$@" ;; *) pwd ;; esac'
    environment = os.environ | {"SAPL_VENV": str(make(tmp_path / "env", python))}

    def launch(*arguments):
        command = [os.path.relpath(LAUNCH, here), *arguments]
        return here, subprocess.run(
            command, cwd=here, env=environment, capture_output=True, text=True, timeout=120
        )

    return launch


def test_what_a_user_makes_lies_in_the_users_folder(launch) -> None:
    here, done = launch("generate", "--images=2", "--size=64", "--output=made", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert list((here / "made").rglob("*.jpg")) or list((here / "made").rglob("*.png"))


def test_the_configurations_are_found_from_there(launch) -> None:
    for config in ([], ["--config=configs/sapl.py"]):
        _, done = launch("train", *config)
        assert "No training data was given" in done.stderr


def test_python_runs_in_the_users_folder_and_the_tests_in_the_projects(launch) -> None:
    here, done = launch("python", "file.py")
    assert done.stdout == f"{here}\n"
    assert launch("test")[1].stdout == f"{LAUNCH.parent}\n"
