"""What one benchmark runs: shapes shared by both frameworks, its clock and its JSON line.

Imports neither JAX nor PyTorch, so that each side runs in an environment without the other.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tower:
    """Shape of one CLIP tower."""

    width: int
    depth: int
    heads: int


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Shape of a CLIP: `image` is the side in pixels of its native pictures."""

    vision: Tower
    text: Tower
    patch: int
    image: int


ARCHITECTURES = {
    "vit-base-patch32": Architecture(Tower(768, 12, 12), Tower(512, 12, 8), 32, 224),
    "vit-base-patch16": Architecture(Tower(768, 12, 12), Tower(512, 12, 8), 16, 224),
    "vit-large-patch14": Architecture(Tower(1024, 24, 16), Tower(768, 12, 12), 14, 224),
    "vit-large-patch14-336": Architecture(Tower(1024, 24, 16), Tower(768, 12, 12), 14, 336),
}

# Dense matrix products in FLOP/s per chip, from the vendors' data sheets (no sparsity).
PEAK_FLOPS = {
    ("H100 PCIe", "bfloat16"): 756e12,
    ("H100 NVL", "bfloat16"): 835e12,
    ("H100", "bfloat16"): 989e12,
    ("H200", "bfloat16"): 989e12,
    ("B200", "bfloat16"): 2250e12,
    ("A100", "bfloat16"): 312e12,
    ("L40S", "bfloat16"): 362e12,
    ("RTX 4090", "bfloat16"): 165e12,
    ("RTX 3090", "bfloat16"): 71e12,
    ("L40", "bfloat16"): 181e12,
    ("L4", "bfloat16"): 121e12,
    ("TPU v4", "bfloat16"): 275e12,
    ("TPU v5 lite", "bfloat16"): 197e12,
    ("TPU v5", "bfloat16"): 459e12,
    ("TPU v6 lite", "bfloat16"): 918e12,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One training step. The defaults are configs/sapl.py (a test compares them).

    Attributes:
        model: a name in `ARCHITECTURES` with random weights, or a Hugging Face CLIP folder.
        size: longer side of the pictures in pixels; the canvas is the next multiple of the patch.
        remat: as `config.train.remat`; "blocks" is the peer's gradient checkpointing.
    """

    model: str = "vit-large-patch14-336"
    size: int = 512
    batch: int = 1
    dtype: str = "float32"
    remat: str = "auto"
    taps: tuple[int, ...] = (6, 12, 18, 24)
    prompt_length: int = 12
    attention_heads: int = 8
    top_k: int = 16
    queue_length: int = 1024
    temperature: float = 0.07
    hecl_weight: float = 0.1
    lora_rank: int = 8
    lora_alpha: float = 16.0
    learning_rate: float = 1e-5
    weight_decay: float = 0.01

    def grid(self, patch: int) -> int:
        """Patches along one side of the canvas."""
        return -(-self.size // patch)


def random_batch(case: Case, patch: int, seed: int) -> dict[str, np.ndarray]:
    """A batch of noise: image [B,C,C,3] uint8, edge_map [B,g,g], valid [B,g,g], label [B]."""
    rng = np.random.default_rng(seed)
    grid = case.grid(patch)
    canvas = grid * patch
    valid = np.ones((case.batch, grid, grid), bool)
    valid[:, grid * 3 // 4 :] = False  # A picture of aspect 4:3.
    return {
        "image": rng.integers(0, 256, (case.batch, canvas, canvas, 3), dtype=np.uint8),
        "edge_map": rng.random((case.batch, grid, grid), dtype=np.float32) * valid,
        "valid": valid,
        "label": ((np.arange(case.batch) + seed) % 2).astype(np.int32),
    }


def model_flops(case: Case) -> float | None:
    """FLOPs of the matrix products a step cannot do without, for MFU; None for a CLIP folder.

    Both towers forward, backward to the activations only (the weights are frozen); attention's
    backward is twice its forward. Recomputation does not count, nor the heads (under 2 %).
    """
    if case.model not in ARCHITECTURES:
        return None
    clip = ARCHITECTURES[case.model]
    tokens = 1 + case.grid(clip.patch) ** 2
    prompt = 3 + case.prompt_length + len(case.taps)
    total = 0.0
    for tower, length, rows in (
        (clip.vision, tokens, case.batch),
        (clip.text, prompt, 2 * case.batch),
    ):
        linear = 2 * 12 * tower.width**2 * length
        attention = 4 * length**2 * tower.width
        total += rows * tower.depth * (2 * linear + 3 * attention)
    return total


def peak_flops(chip: str, dtype: str) -> float | None:
    """The chip's peak in FLOP/s by its name, None for a chip (or CPU) that is not in the table."""
    for (name, of_dtype), peak in PEAK_FLOPS.items():
        if of_dtype == dtype and name.lower() in chip.lower():
            return peak
    return None


def cpu_name() -> str:
    """The processor as the system names it, with the number of cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else 'CPU'}, {cores} cores"


def reset_peak_rss() -> None:
    """Starts the count of `peak_rss` anew (Linux; elsewhere the peak of the whole process)."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def peak_rss() -> int:
    """Largest resident memory of this process in bytes since `reset_peak_rss`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class StepMachine(Protocol):
    """One framework's side, compiled and warmed up by its constructor."""

    chip: str
    compile_s: float

    def batch(self, index: int) -> Any:
        """`random_batch` number `index`, on the device."""
        ...

    def step(self, batch: Any) -> dict[str, float]:
        """Runs one training step to its end and gives its losses."""
        ...

    def peak_memory(self) -> int:
        """Bytes."""
        ...

    def facts(self) -> dict[str, Any]:
        """What else belongs on the JSON line."""
        ...


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags of a case."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=how)
    parser.add_argument("--model", default=Case.model, choices=ARCHITECTURES)
    parser.add_argument("--size", type=int, default=Case.size, help="longer side, pixels")
    parser.add_argument("--batch", type=int, default=1, help="on each device")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    levels = ("auto", "none", "mlp", "blocks")
    parser.add_argument("--remat", choices=levels, default="auto", help="as config.train.remat")
    return parser


def case_of(args: argparse.Namespace) -> Case:
    """The case of parsed flags: the paper's, with taps spread over the depth of the model."""
    depth = ARCHITECTURES[args.model].vision.depth
    taps = tuple(depth * k // 4 for k in (1, 2, 3, 4))
    names = ("model", "size", "batch", "dtype", "remat")
    return Case(taps=taps, **{name: getattr(args, name) for name in names})


def measure(
    what: str, args: argparse.Namespace, case: Case, build: Callable[[Case], StepMachine]
) -> None:
    """Builds a side, times its steps and prints its JSON line."""
    started = time.perf_counter()
    machine = build(case)
    reset_peak_rss()
    wall, cpu, losses = [], [], []
    for index in range(args.steps):
        batch = machine.batch(index)
        wall_0, cpu_0 = time.perf_counter(), time.process_time()
        losses.append(machine.step(batch)["loss"])
        wall.append(1e3 * (time.perf_counter() - wall_0))
        cpu.append(1e3 * (time.process_time() - cpu_0))
    step_ms = statistics.median(wall)
    needed, peak = model_flops(case), peak_flops(machine.chip, case.dtype)
    line = {
        "what": what,
        "chip": machine.chip,
        "model": case.model,
        "size": case.size,
        "batch": case.batch,
        "dtype": case.dtype,
        "remat": case.remat,
        "images_per_s": case.batch / step_ms * 1e3,
        "step_ms": step_ms,
        "step_ms_all": [round(ms, 1) for ms in wall],
        "cpu_ms": statistics.median(cpu),
        "compile_s": machine.compile_s,
        "start_s": time.perf_counter() - started - sum(wall) / 1e3,
        "peak_memory_bytes": machine.peak_memory(),
        "model_flops": needed,
        "mfu": needed / (step_ms / 1e3) / peak if needed and peak else None,
        "losses": losses,
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line | machine.facts()), flush=True)
