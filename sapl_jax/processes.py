"""Which of its host's GPUs a process of a run drives, when several processes may share the host."""

import os
import re
from pathlib import Path

from sapl_jax.errors import UserError

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


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


def visible_gpus() -> int:
    """GPUs that this process could use, found without asking their driver."""
    for name in _VISIBLE:
        if name in os.environ:
            return len([x for x in os.environ[name].split(",") if x.strip()])
    on_node = os.environ.get("SLURM_GPUS_ON_NODE", "")
    found = sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))
    return int(on_node) if on_node.isdigit() else found


def _shared_gpus() -> int:
    """GPUs that the processes of this host see in common; 0 where each sees its own alone."""
    visible, own = visible_gpus(), os.environ.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]
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
