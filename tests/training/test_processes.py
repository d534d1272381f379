"""Two processes over loopback (gloo): losses of one, killed, resumed, stopped, never hanging."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sapl_jax.files import write_json
from tests.data_pipelines.picture_trees import make_casia
from tests.test_train_command import flags
from tests.training.run_in_memory import command, environment, last_logged_step
from tests.training.run_records import checkpoint_digests, losses, metric_lines

ENDS_WITHIN_S = 60  # What docs/reliability.md states for the loss of a process.


@pytest.fixture
def start(tiny_config, tmp_path):
    """Starts `count` processes of one run; ends what is left of them after the test."""
    tiny_config.train.num_steps = 60  # The schedules depend on it, so it is the same for all.
    tiny_config.train.eval_every = 20
    tiny_config.train.checkpoint_every = 2
    config_folder = tmp_path / "config"
    config_folder.mkdir()
    write_json(config_folder / "config.json", tiny_config.to_dict())
    started = []

    def start(count, workdir):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        run = []
        for n in range(count):
            more = {
                "SAPL_COORDINATOR": f"127.0.0.1:{port}",
                "SAPL_PROCESS_COUNT": str(count),
                "SAPL_PROCESS_ID": str(n),
            }
            log = open(tmp_path / f"{workdir.name}-{n}.log", "w")  # noqa: SIM115
            process = subprocess.Popen(
                command(config_folder, workdir),
                env=environment(**(more if count > 1 else {})),
                stdout=log,
                stderr=log,
            )
            log.close()
            run.append(process)
        started.extend(run)
        return run

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_step(workdir, step, run):
    limit = time.monotonic() + 240
    while last_logged_step(workdir) < step:
        assert all(process.poll() is None for process in run), "ended early"
        assert time.monotonic() < limit
        time.sleep(0.01)


def statuses(run, seconds=240):
    limit = time.monotonic() + seconds
    return [process.wait(max(limit - time.monotonic(), 0.01)) for process in run]


def test_two_processes_equal_one_and_survive_kills_and_stops(start, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert statuses(start(1, one)) == [0]

    # A process is killed: the other ends instead of waiting for it.
    run = start(2, two)
    wait_for_step(two, 3, run)
    run[1].kill()
    killed = time.monotonic()
    assert statuses(run, ENDS_WITHIN_S) == [2, -signal.SIGKILL]
    print(f"the other process ended after {time.monotonic() - killed:.1f} s")
    assert "lost contact with another process" in (tmp_path / "two-0.log").read_text()

    # One process is asked to stop: both save the same step and say so.
    run = start(2, two)
    wait_for_step(two, 5, run)
    run[1].terminate()
    asked = time.monotonic()
    assert statuses(run, 30) == [143, 143]
    print(f"both ended {time.monotonic() - asked:.1f} s after SIGTERM to one")
    stopped_at = last_logged_step(two)
    assert f"last/{stopped_at}" in checkpoint_digests(two)

    # Started again, they finish with the losses of one process.
    assert statuses(start(2, two)) == [0, 0]
    assert stopped_at < 60 == len(losses(two))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-3)
    aucs = [[row for row in metric_lines(run) if "val_i_auc" in row] for run in (two, one)]
    assert [row["step"] for row in aucs[0]] == [20, 40, 60]
    for a, b in zip(*aucs, strict=True):
        assert a["val_i_auc"] == pytest.approx(b["val_i_auc"], abs=0.1)  # 16 pictures: ties.


def test_sigterm_before_the_first_step_ends_a_process_of_several(tmp_path):
    code = "import time; from sapl_jax import processes as p; p.start_runtime()\n"
    code += "open('up', 'w').close(); time.sleep(60)"
    with socket.create_server(("127.0.0.1", 0)) as free:
        more = {"SAPL_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}"}
    more |= {"SAPL_PROCESS_COUNT": "1", "SAPL_PROCESS_ID": "0", "PYTHONPATH": str(Path.cwd())}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment(**more), cwd=tmp_path)
    try:
        while not (tmp_path / "up").exists():
            assert run.poll() is None
            time.sleep(0.1)
        run.terminate()
        assert run.wait(10) == -signal.SIGTERM
    finally:
        run.kill()


@pytest.mark.parametrize("what", ["names", "damage", "rate"])
def test_hosts_that_differ_do_not_train_together(tmp_path, what):
    roots = [make_casia(tmp_path / "a")]
    roots += [shutil.copytree(roots[0], tmp_path / "b")]
    one = min((roots[1] / "Au").iterdir())
    if what == "names":
        one.rename(one.with_name(f"Au_ani_77777{one.suffix}"))
    if what == "damage":
        one.write_bytes(bytes(one.stat().st_size))
    with socket.create_server(("127.0.0.1", 0)) as free:
        more = {"SAPL_COORDINATOR": f"127.0.0.1:{free.getsockname()[1]}", "SAPL_PROCESS_COUNT": "2"}
    run = []
    for n, root in enumerate(roots):
        given = [*flags(root, tmp_path / f"prepared{n}", tmp_path / "run")]
        given += ["--config.train.learning_rate=0.01"] if what == "rate" and n else []
        with open(tmp_path / f"{n}.log", "w") as log:
            run.append(
                subprocess.Popen(
                    [sys.executable, "-m", "sapl_jax.train", *map(str, given)],
                    env=environment(**more, SAPL_PROCESS_ID=str(n)),
                    stderr=log,
                )
            )
    try:
        assert statuses(run)[0] == 2
    finally:
        for process in run:
            process.kill()
    assert "have different pictures, weights or settings" in (tmp_path / "0.log").read_text()


@pytest.mark.slow
def test_losing_the_first_process_ends_the_other(start, tmp_path):
    run = start(2, tmp_path / "two")
    wait_for_step(tmp_path / "two", 3, run)
    run[0].kill()
    killed = time.monotonic()
    assert statuses(run, ENDS_WITHIN_S)[1] not in (0, None)
    print(f"the other process ended after {time.monotonic() - killed:.1f} s")


@pytest.mark.slow
def test_a_mistake_that_only_one_process_makes_ends_both(start, tmp_path):
    """The first process finds a work directory of another run; the other would wait for it."""
    (tmp_path / "two" / "checkpoints" / "last" / "1").mkdir(parents=True)
    write_json(tmp_path / "two" / "config.json", {"seed": 1})
    run = start(2, tmp_path / "two")
    assert statuses(run, ENDS_WITHIN_S + 60)[0] == 2
    assert run[1].returncode != 0
    assert "holds a run of another configuration" in (tmp_path / "two-0.log").read_text()
