"""The batch files start the training command once per task, with the flags they were given."""

import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[1] / "slurm"
RECORD = '#!/bin/sh\necho "$(basename "$0") $* coordinator=${SAPL_COORDINATOR:-}"\n'


def stub(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize(
    "name, options, coordinator",
    [("one_node", "", ""), ("several_nodes", "--kill-on-bad-exit=1 ", "auto")],
)
def test_batch_files(tmp_path, name, options, coordinator):
    stub(tmp_path / "launch.sh", RECORD)
    stub(tmp_path / "bin" / "srun", RECORD)
    env = os.environ | {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    env.pop("SAPL_COORDINATOR", None)
    command = ["bash", SLURM / f"{name}.sbatch", "--workdir", "a folder", "--config.seed=1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "launch.sh setup coordinator=",
        f"srun {options}./launch.sh train --workdir a folder --config.seed=1 "
        f"coordinator={coordinator}",
    ]


@pytest.mark.parametrize("name", ["one_node", "several_nodes"])
def test_the_scheduler_gives_one_task_per_node_all_gpus_and_a_warning(name):
    asked = (SLURM / f"{name}.sbatch").read_text()
    for option in ("ntasks-per-node=1", "gpus-per-node=", "signal=TERM@"):
        assert f"#SBATCH --{option}" in asked
