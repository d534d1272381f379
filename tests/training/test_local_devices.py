"""Which devices a process takes under SLURM, Open MPI, Kubernetes and on TPUs, variables faked."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from sapl_jax.errors import UserError
from sapl_jax.processes import (
    idle_gpus,
    local_device_ids,
    local_rank,
    report_devices,
    start_runtime,
)
from tests.training.run_in_memory import environment

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "1",
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
# One host of a slice, as GKE describes it; the first makes JAX look without any chip being there.
TPU_SLICE = {
    "JAX_FORCE_TPU_INIT": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
    "MEGASCALE_NUM_SLICES": "1",
    "MEGASCALE_SLICE_ID": "0",
}
FOUR = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
BY_HAND = {"SAPL_PROCESS_COUNT": "1", "SAPL_PROCESS_ID": "0"}


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def env(monkeypatch):
    """Sets variables, after those of a scheduler that the tests may run under are gone."""
    for name in os.environ:
        if name.startswith(("SLURM_", "OMPI_", "CUDA_VISIBLE", "HIP_VISIBLE", "ROCR_VISIBLE")):
            monkeypatch.delenv(name)
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS", raising=False)

    return lambda *several, **more: [
        monkeypatch.setenv(name, value) for d in (*several, more) for name, value in d.items()
    ]


def test_one_process_takes_all_gpus_of_its_host(env):
    env(SLURM, FOUR)
    assert local_device_ids() == [] and idle_gpus(4) == 0
    assert idle_gpus(1) == 3


@pytest.mark.parametrize("rank", range(4))
def test_one_process_for_each_gpu_takes_its_own(env, rank):
    env(SLURM, FOUR, SLURM_STEP_TASKS_PER_NODE="4(x2)", SLURM_LOCALID=str(rank), SLURM_NODEID="1")
    assert local_device_ids() == [rank] and idle_gpus(1) == 0


def test_two_processes_share_four_gpus(env):
    env(SLURM, FOUR, SLURM_STEP_TASKS_PER_NODE="2", SLURM_LOCALID="1")
    assert local_device_ids() == [2, 3]


@pytest.mark.parametrize("gpus, visible", [("1", "3"), ("2", "2,3"), ("h100:2", "0,1")])
def test_gpus_that_slurm_has_bound_are_taken_as_they_are(env, gpus, visible):
    """Numbers start from 0 in each process then, so its number on the host would name none."""
    env(SLURM, SLURM_STEP_TASKS_PER_NODE="2", SLURM_LOCALID="1", SLURM_GPUS_PER_TASK=gpus)
    env(CUDA_VISIBLE_DEVICES=visible)
    assert local_device_ids() == [] and idle_gpus(len(visible.split(","))) == 0


def test_tasks_of_the_own_node_are_counted(env):
    env(SLURM, SLURM_STEP_TASKS_PER_NODE="4(x2),1,3", SLURM_NODEID="3", SLURM_LOCALID="2")
    assert local_rank() == (2, 3)


def test_without_a_step_the_tasks_of_the_job_are_counted(env):
    env(SLURM_LOCALID="1", SLURM_TASKS_PER_NODE="2")
    assert local_rank() == (1, 2)


@pytest.mark.parametrize("kind", ["CUDA", "HIP", "ROCR"])
def test_visible_gpus_are_those_that_are_named(env, kind):
    env(SLURM, {f"{kind}_VISIBLE_DEVICES": "0, 1,"})
    assert idle_gpus(0) == 2


def test_no_gpu_is_visible_where_minus_one_is_named(env):
    env(SLURM, CUDA_VISIBLE_DEVICES="-1")
    assert idle_gpus(0) == 0


def test_gpus_that_slurm_gave_the_node_are_counted_where_none_are_named(env):
    env(SLURM, SLURM_GPUS_ON_NODE="5")
    assert idle_gpus(1) == 4


def test_the_one_gpu_that_each_of_several_processes_sees_is_its_own(env):
    env(SLURM, SLURM_STEP_TASKS_PER_NODE="2", SLURM_LOCALID="1", CUDA_VISIBLE_DEVICES="1")
    assert local_device_ids() == [] and idle_gpus(1) == 0


def test_gpus_bound_to_the_only_process_may_be_idle(env):
    env(SLURM, FOUR, SLURM_GPUS_PER_TASK="4")
    assert idle_gpus(1) == 3


def test_gpus_that_cannot_be_shared_are_the_users_mistake(env):
    env(SLURM, FOUR, SLURM_STEP_TASKS_PER_NODE="3")
    with pytest.raises(UserError, match="3 processes.*4 GPUs.*--ntasks-per-node=4"):
        local_device_ids()


def test_jaxs_own_variable_is_left_to_jax(env):
    env(SLURM, FOUR, JAX_LOCAL_DEVICE_IDS="2")
    assert local_device_ids() is None


def test_no_scheduler_and_no_gpus(env):
    env(CUDA_VISIBLE_DEVICES="")
    assert local_rank() == (0, 1) and local_device_ids() == [] and idle_gpus(1) == 0


@pytest.mark.parametrize(
    "scheduler, coordinator, more",
    [
        (SLURM, "auto", {}),
        (SLURM, "127.0.0.1:PORT", BY_HAND),
        (OPEN_MPI, "auto", {}),
        (TPU_SLICE, "auto", {}),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "127.0.0.1:PORT", BY_HAND),
        ({}, "127.0.0.1:PORT", BY_HAND),
    ],
)
def test_jax_is_left_all_devices(env, free_port, scheduler, coordinator, more):
    """JAX's own detection runs in every form: with it alone the first GPU would be the only one."""
    env(scheduler, FOUR, more, SAPL_COORDINATOR=coordinator.replace("PORT", free_port))
    code = (
        "from sapl_jax.processes import start_runtime; import jax; start_runtime();"
        "from jax._src import xla_bridge; "
        "print(jax.process_count(), xla_bridge.CUDA_VISIBLE_DEVICES.value)"
    )
    more = {"JAX_COORDINATOR_PORT": free_port}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(**more), capture_output=True, text=True
    )
    assert done.stdout.split() == ["1", "all"], done.stderr


@pytest.mark.parametrize(
    ("coordinator", "message"),
    [
        ("localhost", "expected HOST:PORT, or auto"),
        ("localhost:abc", "expected HOST:PORT, or auto"),
        ("localhost:99999", "expected HOST:PORT, or auto"),
        ("localhost:0", "expected HOST:PORT, or auto"),
        ("no.such.host.invalid:9476", "give another"),
    ],
)
def test_a_coordinator_that_is_none_is_refused(env, monkeypatch, coordinator, message):
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: pytest.fail("joined"))
    env(BY_HAND, SAPL_COORDINATOR=coordinator)
    with pytest.raises(UserError, match=message):
        start_runtime()


def test_auto_where_there_is_no_cluster_is_refused(env, monkeypatch):
    def find_none(**_):
        raise ValueError("coordinator_address should be defined.")

    env(SAPL_COORDINATOR="auto")
    monkeypatch.setattr("jax.distributed.initialize", find_none)
    with pytest.raises(UserError, match="SAPL_COORDINATOR is auto.*auto is for TPU slices, SLURM"):
        start_runtime()


def test_a_port_on_which_another_run_listens_is_refused_by_the_one_that_coordinates(env):
    with socket.create_server(("", 0)) as other:
        env(BY_HAND, SAPL_COORDINATOR=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(UserError, match="in use.*give another"):
            start_runtime()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_other_processes_join_at_the_port_with_the_times_that_are_told(env, monkeypatch, host):
    asked = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **options: asked.append(options))
    with socket.create_server(("", 0)) as first:
        address = f"{host}:{first.getsockname()[1]}"
        env(SAPL_PROCESS_COUNT="2", SAPL_PROCESS_ID="1", SAPL_COORDINATOR=address)
        env(CUDA_VISIBLE_DEVICES="")
        start_runtime()
    known = {"coordinator_address": address, "num_processes": 2, "process_id": 1}
    times = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 60}
    assert asked == [{"local_device_ids": [], **times, **known}]


def test_the_last_process_has_the_number_below_their_count(env):
    env({**BY_HAND, "SAPL_PROCESS_ID": "1"}, SAPL_COORDINATOR="localhost:9476")
    with pytest.raises(UserError, match="counted from 0"):
        start_runtime()


def test_a_number_of_the_process_in_other_digits_is_refused(env):
    env({**BY_HAND, "SAPL_PROCESS_ID": "²"}, SAPL_COORDINATOR="localhost:9476")
    with pytest.raises(UserError, match="counted from"):
        start_runtime()


def test_processes_with_unequal_devices_are_refused(env, monkeypatch):
    env(BY_HAND, SAPL_COORDINATOR=f"localhost:{_free()}")
    devices = [SimpleNamespace(process_index=n) for n in (0, 0, 1)]
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: None)
    monkeypatch.setattr("jax.devices", lambda: devices)
    with pytest.raises(UserError, match=r"Processes drive \[1, 2\] devices"):
        start_runtime()


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_what_is_driven_is_said_and_idle_gpus_are_warned_of(env, monkeypatch, caplog):
    caplog.set_level("INFO")
    env(SLURM, FOUR)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    report_devices("float32")
    count = jax.device_count()
    assert f"process 1 of 1 drives {count} of {count} cpu" in caplog.text.lower()
    assert "4 of the GPUs of this host are idle" in caplog.text
