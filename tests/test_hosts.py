"""`launch.sh hosts`: what each host is told to start, and how the whole ends."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ready_environment import LAUNCH, make

# In place of ssh: writes down what it was to start, and ends as the host's name says, or starts it
# (runs), and where it is killed leaves that running as ssh does.
SSH = """#!/bin/sh
echo "$*" >"$OUT/$1"
case $1 in
  slow) exec sleep 60 ;;
  runs*) shift; sh -c "$*" & wait $! ;;
  *) exit "${1#ends}" ;;
esac
"""
# In place of training: told to stop, all processes save and end.
TRAINING = """
trap 'echo $SAPL_PROCESS_ID >>"$OUT/told"' TERM
echo >"$OUT/started$SAPL_PROCESS_ID"
for _ in $(seq 300); do
  [ -e "$OUT/told" ] && [ -z "${STUBBORN:-}" ] && break
  [ -e "$OUT/over" ] && exit
  sleep .1
done
sleep 1
echo >"$OUT/saved$SAPL_PROCESS_ID"
exit 143
"""


def start(tmp_path: Path, hosts: str, **more: str) -> subprocess.Popen[str]:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k != "SAPL_PORT"} | more
    environment |= {"SAPL_SSH": str(ssh), "OUT": str(tmp_path), "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        ["bash", str(LAUNCH), "hosts", hosts, "train", "--workdir", "a folder"],
        env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # What shells start behind "&" has it ignored, and bash could not trap it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def run(tmp_path: Path, hosts: str, **more: str) -> tuple[int, list[str]]:
    """The status, and what the hosts were told, in their order."""
    launched = start(tmp_path, hosts, **more)
    launched.communicate(timeout=30)
    told = [tmp_path / host for host in hosts.split()]
    return launched.returncode, [path.read_text() for path in told if path.exists()]


def wait_for(*files: Path) -> None:
    until = time.monotonic() + 20
    while not all(file.exists() for file in files):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts trainings on two hosts; the command that waits for them."""

    def trainings(**more: str) -> subprocess.Popen[str]:
        environment = str(make(tmp_path / "env", TRAINING))
        launched = start(tmp_path, "runs0 runs1", SAPL_VENV=environment, **more)
        wait_for(tmp_path / "started0", tmp_path / "started1")
        return launched

    yield trainings
    (tmp_path / "over").touch()


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
    there = {"cwd": "/", "env": os.environ | {"TMPDIR": str(tmp_path)}}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, **there)
    assert done.stdout == f"{LAUNCH.parent}\n-m sapl_jax train --workdir a folder\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_is_handed_to_the_first_host_and_all_are_waited_for(
    trainings, tmp_path: Path, number: int
) -> None:
    launched = trainings()
    os.killpg(launched.pid, number) if number == signal.SIGINT else launched.send_signal(number)
    launched.communicate(timeout=20)
    assert launched.returncode == 128 + number
    assert (tmp_path / "told").read_text() == "0\n"
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert not list(tmp_path.glob("sapl-*"))


def test_a_second_ctrl_c_gives_up_waiting(trainings, tmp_path: Path) -> None:
    launched = trainings(STUBBORN="1")
    os.killpg(launched.pid, signal.SIGINT)
    assert any("second Ctrl-C" in line for line in launched.stderr)
    wait_for(tmp_path / "told")
    assert launched.poll() is None
    os.killpg(launched.pid, signal.SIGINT)
    assert launched.wait(timeout=5) == 130


def test_a_first_host_that_cannot_be_told_is_named(trainings, tmp_path: Path) -> None:
    launched = trainings()
    (noted,) = tmp_path.glob("sapl-*")
    noted.unlink()
    os.killpg(launched.pid, signal.SIGINT)
    assert launched.wait(timeout=20) == 130
    (tmp_path / "over").touch()
    assert "runs0 was not told" in launched.communicate(timeout=20)[1]
