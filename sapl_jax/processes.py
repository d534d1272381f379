"""The processes of a run: how they meet, which GPUs of its host each one drives, how they end."""

import logging
import os
import re
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from sapl_jax.devices import use_compilation_cache
from sapl_jax.errors import UserError

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
HEARTBEAT_S = 30
SHUTDOWN_S = 60  # How long a process that is done waits for the others, which get there together.

log = logging.getLogger(__name__)


def start_runtime() -> None:
    """Joins the other processes of a multi-host run and turns on the compilation cache.

    Several processes: `launch.sh` sets SAPL_COORDINATOR, SAPL_PROCESS_COUNT and SAPL_PROCESS_ID; on
    TPU slices and under SLURM, Open MPI and Kubernetes JAX finds them itself when SAPL_COORDINATOR
    is "auto". In both forms a process drives its host's GPUs or its share (`local_device_ids`).
    A process that is lost is noticed HEARTBEAT_S seconds later at the latest.
    """
    use_compilation_cache()
    jax.config.update("jax_enable_preemption_service", False)  # It would swallow SIGTERM.
    if coordinator := os.environ.get("SAPL_COORDINATOR", ""):
        known: dict[str, Any] = {}
        if coordinator != "auto":
            count, number = (os.environ.get(f"SAPL_PROCESS_{x}", "") for x in ("COUNT", "ID"))
            if not (count.isdecimal() and number.isdecimal() and int(number) < int(count)):
                raise UserError(
                    f"SAPL_COORDINATOR is set, but SAPL_PROCESS_COUNT={count!r}, SAPL_PROCESS_ID="
                    f"{number!r}: expected the number of processes, and the number of this one, "
                    "counted from 0. launch.sh sets them."
                )
            known = {"num_processes": int(count), "process_id": int(number)}
            known["coordinator_address"] = coordinator
            _check_address(coordinator, coordinates=number == "0")
            log.info("meeting %s processes at %s, five minutes at most", count, coordinator)
        try:
            jax.distributed.initialize(
                local_device_ids=local_device_ids(), heartbeat_timeout_seconds=HEARTBEAT_S,
                shutdown_timeout_seconds=SHUTDOWN_S, **known,
            )  # fmt: skip
        except ValueError as error:
            how = "auto is for TPU slices, SLURM, Open MPI, Kubernetes; launch.sh sets the rest"
            raise UserError(f"SAPL_COORDINATOR is {coordinator}: {error} {how}.") from error
        if len(set(counts := Counter(d.process_index for d in jax.devices()).values())) > 1:
            raise UserError(f"Processes drive {sorted(counts)} devices; expected as many for each.")


def _check_address(address: str, coordinates: bool) -> None:
    """UserError for no HOST:PORT, or a port on which process 0, which this is, cannot listen."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError(f"SAPL_COORDINATOR is {address!r}; expected HOST:PORT, or auto.")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
        if coordinates:  # Else JAX would join the run that listens there, which that ends.
            socket.create_server(("", int(port))).close()
    except OSError as error:
        raise UserError(f"SAPL_COORDINATOR is {address}: {error}; give another.") from error


def report_devices(dtype: jnp.dtype) -> None:
    """Says which devices this process drives, and warns of GPUs of its host that stay idle."""
    local = jax.local_devices()
    log.info(
        "process %d of %d drives %d of %d %s device(s), %s", jax.process_index() + 1,
        jax.process_count(), len(local), jax.device_count(), local[0].device_kind, dtype,
    )  # fmt: skip
    idle = idle_gpus(len(local) if local[0].platform == "gpu" else 0)
    if idle and os.environ.get("JAX_PLATFORMS") != "cpu":
        log.warning(
            "%d of the GPUs of this host are idle. Is JAX's CUDA plugin installed (./launch.sh "
            "setup), and is there one process for each host, or one for each GPU?", idle,
        )  # fmt: skip


@contextmanager
def leave_on_error() -> Iterator[None]:
    """In a run of several processes, ends this one at once on any error, and thereby the others.

    JAX would wait at exit for the other processes, which wait for this one. Status 2 with one
    message for a UserError and for a lost process, 130 for Ctrl-C, 1 with a traceback otherwise.
    A run of one process is left to the usual handling of errors.
    """
    try:
        yield
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        status = 2
        if isinstance(error, (UserError, PermissionError)):
            print(f"error: {error}", file=sys.stderr)
        elif isinstance(error, jax.errors.JaxRuntimeError):
            print(
                f"error: Process {jax.process_index()} lost contact with another process of this "
                f"run, or cannot go on ({str(error).splitlines()[0][:200]}). The checkpoints are "
                "kept: see the output of the other processes, and start all of them again.",
                file=sys.stderr,
            )
        elif isinstance(error, KeyboardInterrupt):
            status = 130
        else:
            status = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def local_rank() -> tuple[int, int]:
    """This process's number on its host, and how many of the run are there.

    As SLURM or Open MPI tell; (0, 1) without them: one process with all devices of its host.
    """
    env = os.environ
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in env:
        return int(env["OMPI_COMM_WORLD_LOCAL_RANK"]), int(env["OMPI_COMM_WORLD_LOCAL_SIZE"])
    if "SLURM_LOCALID" in env:
        layout = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "1")
        tasks = [  # "4(x2),1": nodes 0 and 1 have four each, node 2 has one.
            int(number)
            for number, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", layout)
            for _ in range(int(times or 1))
        ]
        return int(env["SLURM_LOCALID"]), tasks[int(env.get("SLURM_NODEID", 0))]
    return 0, 1


def _visible_gpus() -> int:
    """GPUs that this process could use, found without asking their driver."""
    for name in _VISIBLE:
        if name in os.environ:
            return len([x for x in os.environ[name].split(",") if x.strip() not in ("", "-1")])
    on_node = os.environ.get("SLURM_GPUS_ON_NODE", "")
    found = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
    return int(on_node) if on_node.isdigit() else found


def _shared_gpus() -> int:
    """GPUs that the processes of this host see in common; 0 where each sees its own alone."""
    visible, own = _visible_gpus(), os.environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
    bound = visible == 1 or (own.isdigit() and visible <= int(own))
    return 0 if bound and local_rank()[1] > 1 else visible


def local_device_ids() -> list[int] | None:
    """What to tell `jax.distributed.initialize`: an empty list is all the GPUs that are visible.

    Left alone, JAX takes the one GPU whose number is the process's on its host. Here one process
    takes them all, several take equal shares, and where SLURM has bound GPUs to each (it sees only
    its own) each takes those. None: JAX_LOCAL_DEVICE_IDS says it.

    Raises:
        UserError: the host's GPUs cannot be shared equally.
    """
    if os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    (rank, processes), gpus = local_rank(), _shared_gpus()
    if processes == 1 or not gpus:
        return []
    if gpus % processes:
        raise UserError(
            f"{processes} processes were started on this host, and they see {gpus} GPUs. Start one "
            "process for each host (--ntasks-per-node=1) or one for each GPU "
            f"(--ntasks-per-node={gpus})."
        )
    each = gpus // processes
    return list(range(rank * each, (rank + 1) * each))


def idle_gpus(driven: int) -> int:
    """GPUs that are visible on this host and that no process drives, when this one drives some."""
    return max(0, _shared_gpus() - driven * local_rank()[1])
