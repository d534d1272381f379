"""`launch.sh hosts`: what each host is told to start, and how the whole ends."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.ready_environment import LAUNCH, make

# In place of ssh: writes down what it was to start, and ends as the host's name says.
SSH = """#!/bin/sh
echo "$*" >"$OUT/$1"
case $1 in slow) exec sleep 60 ;; *) exit "${1#ends}" ;; esac
"""


def run(tmp_path: Path, hosts: str, **more: str) -> tuple[int, list[str]]:
    """The status, and what the hosts were told, in their order."""
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "SAPL_PORT"} | more
    environment |= {"SAPL_SSH": str(ssh), "OUT": str(tmp_path)}
    command = ["bash", str(LAUNCH), "hosts", hosts, "train", "--workdir", "a folder"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=30)
    told = [tmp_path / host for host in hosts.split()]
    return done.returncode, [path.read_text() for path in told if path.exists()]


def test_each_host_is_told_its_number_and_one_port_drawn_for_the_run(tmp_path: Path) -> None:
    ports = set()
    for _ in range(3):
        status, told = run(tmp_path, "ends0 ends00")
        assert status == 0 and len(told) == 2
        for number, text in enumerate(told):
            assert f"SAPL_PROCESS_COUNT=2 SAPL_PROCESS_ID={number} " in text
            assert text.rstrip().endswith(r"/launch.sh train --workdir a\ folder")
        (found,) = {re.search(r"SAPL_COORDINATOR=ends0:(\d+) ", text)[1] for text in told}
        ports.add(int(found))
    assert len(ports) > 1 and all(20000 <= port < 32000 for port in ports)
    _, told = run(tmp_path, "ends0", SAPL_PORT="1234", SAPL_VENV="/shared/env")
    assert "SAPL_COORDINATOR=ends0:1234 SAPL_VENV=/shared/env " in told[0]
    _, told = run(tmp_path, "me@ends0")
    assert "SAPL_COORDINATOR=ends0:" in told[0]


@pytest.mark.parametrize("hosts", ["ends3 slow", "slow ends3", "ends0 ends3"])
def test_where_one_ends_badly_the_others_are_stopped_and_its_status_is_given(
    tmp_path: Path, hosts: str
) -> None:
    assert run(tmp_path, hosts)[0] == 3


def test_a_host_trains_in_the_projects_folder(tmp_path: Path) -> None:
    _, (text,) = run(tmp_path, "ends0", SAPL_VENV=str(make(tmp_path / "env", 'pwd; echo "$@"')))
    command = text.removeprefix("ends0 ")
    done = subprocess.run(command, shell=True, cwd="/", capture_output=True, text=True)
    assert done.stdout == f"{LAUNCH.parent}\n-m sapl_jax train --workdir a folder\n"
