"""Chips that are not here: their descriptions, and the devices a program is compiled for.

Compiling needs the vendor's compiler and no chip: XLA's CUDA plugin with NVIDIA's libraries, or
libtpu. `prepare` comes before the first import of JAX.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sapl_jax.errors import UserError

if TYPE_CHECKING:
    import jax

_FILE = Path(__file__).with_name("targets.toml")
_INSTALL = {
    "gpu": ("jax_cuda12_plugin", 'pip install "jax[cuda12]==VERSION"', "4.9 GB"),
    "tpu": ("libtpu", 'pip install "jax[tpu]==VERSION"', "0.2 GB"),
}
# Of a GPU's memory JAX takes this share at its start (XLA_PYTHON_CLIENT_MEM_FRACTION).
_GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips of one kind. Memory in bytes for each device, rates in bytes/s.

    Attributes:
        platform: "gpu" or "tpu".
        topology: how a TPU slice is laid out, as "2x4"; of GPUs their number.
        facts: the chip's entry in targets.toml.
    """

    platform: str
    name: str
    topology: str
    facts: dict[str, Any]

    @property
    def usable_bytes(self) -> float:
        """What a program may use of a device's memory."""
        if self.platform == "gpu":
            return _GPU_SHARE * self.facts["memory"]
        return self.facts["memory_gib"] * 2**30

    def devices(self) -> "list[jax.Device]":
        """Devices that programs can be compiled for and not run on.

        Raises:
            UserError: the compiler does not know this topology, or cannot be loaded.
        """
        from jax.experimental import topologies

        try:
            if self.platform == "tpu":
                found = topologies.get_topology_desc(
                    f"{self.name}:{self.topology}", "tpu", **self.facts.get("options", {})
                )
            else:
                found = topologies.get_topology_desc(
                    "", "cuda", target_config=_gpu_text(self.facts), topology=f"1x1x{self.topology}"
                )
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"no compiler for {self.name}, {self.topology}: {str(error).splitlines()[0]}"
            ) from error
        return list(found.devices)


def target_of(gpu: str | None, tpu: str | None, devices: int) -> Target:
    """The target of the flags --gpu NAME --devices N, or --tpu NAME or NAME:TOPOLOGY.

    Raises:
        UserError: for a chip that targets.toml does not describe.
    """
    platform, wanted = ("gpu", gpu) if gpu else ("tpu", tpu or "")
    name, _, topology = wanted.lower().partition(":")
    known = tomllib.loads(_FILE.read_text())[platform]
    if name not in known:
        raise UserError(
            f"found no description of the {platform.upper()} {name!r}; expected one of "
            f"{', '.join(known)}. Describe another one in {_FILE}."
        )
    facts = known[name]
    return Target(platform, name, str(devices) if gpu else topology or facts["topology"], facts)


def prepare(target: Target, plugins: Path | None) -> None:
    """Finds the compiler of a target and sets what it reads from the environment.

    Args:
        target: what is compiled for.
        plugins: a folder that pip installed into with --target; None: this environment has them.

    Raises:
        UserError: the compiler is not installed.
    """
    if plugins:
        sys.path.append(str(plugins))
    module, command, size = _INSTALL[target.platform]
    if importlib.util.find_spec(module) is None:
        where = f"in {plugins}" if plugins else "in this environment"
        command = command.replace("VERSION", importlib.metadata.version("jax"))
        raise UserError(
            f"compiling for {target.name} needs {module}, which is not {where}. Install it with\n"
            f"  {command}\n({size}). It may be in a folder of its own (pip install --no-deps "
            "--target FOLDER, with all the packages it names): then add --plugins FOLDER."
        )
    os.environ["JAX_PLATFORMS"] = "cpu"
    if target.platform == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        return
    nvcc = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.cuda_nvcc")
    if nvcc and nvcc.submodule_search_locations:
        folder = f"--xla_gpu_cuda_data_dir={list(nvcc.submodule_search_locations)[0]}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {folder}".strip()


def _gpu_text(facts: dict[str, Any]) -> str:
    """XLA's GpuTargetConfig in text form: what it would have asked the card."""
    major, minor = facts["capability"]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {facts["shared_per_core"]}
  threads_per_core_limit: {facts["threads_per_core"]}
  core_count: {facts["cores"]}
  fpus_per_core: {facts["fpus_per_core"]}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {facts["bandwidth"]}
  l2_cache_size: {facts["l2"]}
  clock_rate_ghz: {facts["clock"]}
  device_memory_size: {facts["memory"]}
  shared_memory_per_block_optin: {facts["shared_per_block"]}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{facts["kind"]}"
"""
