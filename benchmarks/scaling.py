"""How the step grows: python -m benchmarks.scaling rewrites the measured part of docs/scaling.md.

Memory and products of the paper's model come from compiling it, which needs no memory for it;
step times are measured on a smaller model. Collectives are read from a two-device program.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.case import Case, cpu_name
from benchmarks.lowering import lower_step
from benchmarks.program import by_kind, collectives, matmul_flops
from benchmarks.tables import replace_measured
from benchmarks.train_step import OurStep, config_of
from data_pipelines.progress_bars import ProgressBar

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
LARGE = Case()
SMALL = Case(model="vit-base-patch16", size=224, batch=2, taps=(3, 6, 9, 12))
Line = dict[str, Any]
# Code that is not run need not be good; memory and products are settled before it is made.
_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}


def variations(
    base: Case, sizes: tuple[int, ...], tap_sets: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[str, int, Case]]:
    """(what varies, its value, case), one thing at a time around `base`."""
    for batch in (1, 2, 4):
        yield "batch", batch, dataclasses.replace(base, batch=batch)
    for size in sizes:
        yield "size", size, dataclasses.replace(base, size=size)
    for taps in tap_sets:
        yield "taps", len(taps), dataclasses.replace(base, taps=taps)
    for length in (256, 16384):
        yield "queue length", length, dataclasses.replace(base, queue_length=length)


def compiled_point(what: str, value: int, case: Case) -> Line:
    """Memory and products of the compiled step of a case on one device."""
    compiled: Any = lower_step(config_of(case), jax.devices()[:1]).compile(_QUICK)
    memory = compiled.memory_analysis()
    return {
        "what": what,
        "value": value,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "program_flops": matmul_flops(compiled.as_text()),
    }


def timed_point(steps: int, what: str, value: int, case: Case) -> Line:
    """Wall and processor time of a step."""
    machine = OurStep(case)
    wall, cpu = [], []
    for index in range(steps):
        batch = machine.batch(index)
        wall_0, cpu_0 = time.perf_counter(), time.process_time()
        machine.step(batch)
        wall.append(1e3 * (time.perf_counter() - wall_0))
        cpu.append(1e3 * (time.process_time() - cpu_0))
    return {
        "what": what,
        "value": value,
        "step_ms": statistics.median(wall),
        "cpu_ms": statistics.median(cpu),
        "load_average": os.getloadavg()[0],
    }


def moved_bytes(batch: int) -> Line:
    """The collectives of the paper's step on two devices with `batch` pictures on each."""
    config = config_of(dataclasses.replace(LARGE, batch=2 * batch))
    compiled: Any = lower_step(config, jax.devices()[:2]).compile(_QUICK)
    return by_kind(collectives(compiled.as_text()))


def tables(lines: dict[str, Any]) -> str:
    """The measured part of the page."""
    out = [
        "### Compiled step of ViT-L/14 at 512 pixels, float32, CPU program\n",
        "Around batch 1, four taps, queues of 1024, `mlp` recomputed. Arguments: weights, state "
        "and batch; temporary: activations and gradients.\n",
        "| varies | value | arguments GB | temporary GB | TFLOP of products |",
        "| --- | --- | --- | --- | --- |",
    ]
    out += [
        f"| {x['what']} | {x['value']} | {x['argument_bytes'] / 1e9:.2f} | "
        f"{x['temporary_bytes'] / 1e9:.2f} | {x['program_flops'] / 1e12:.2f} |"
        for x in lines["compiled"]
    ]
    loads = [x["load_average"] for x in lines["timed"]]
    out += [
        f"\n### Step time of ViT-B/16 at 224 pixels, float32, {lines['chip']}\n",
        f"Around batch 2, four taps, queues of 1024; 1-minute load {min(loads):.1f} to "
        f"{max(loads):.1f} while measuring, so compare processor times.\n",
        "| varies | value | step ms | CPU ms |",
        "| --- | --- | --- | --- |",
    ]
    out += [
        f"| {x['what']} | {x['value']} | {x['step_ms']:.0f} | {x['cpu_ms']:.0f} |"
        for x in lines["timed"]
    ]
    out += [
        "\n### Collectives of the compiled two-device step of ViT-L/14\n",
        "One picture on each device.\n",
        "| kind | number | bytes of the results |",
        "| --- | --- | --- |",
    ]
    out += [f"| {k} | {v['number']} | {v['bytes']:,} |" for k, v in lines["collectives"].items()]
    return "\n".join(out) + "\n"


def main() -> None:
    """Measures everything and rewrites the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lines", type=Path, help="JSON of a run before: only write the page")
    parser.add_argument("--save", type=Path, help="write the measurements as JSON here too")
    args = parser.parse_args()
    if args.lines:
        lines = json.loads(args.lines.read_text())
    else:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 2)
        large = list(variations(LARGE, (336, 768), ((24,), (3, 6, 9, 12, 15, 18, 21, 24))))
        small = list(variations(SMALL, (112, 448), ((12,), (2, 4, 6, 8, 10, 12))))
        lines = {
            "chip": cpu_name(),
            "compiled": [compiled_point(*point) for point in ProgressBar(large, "compiled")],
            "timed": [timed_point(args.steps, *point) for point in ProgressBar(small, "timed")],
            "collectives": moved_bytes(1),
        }
    if args.save:
        args.save.write_text(json.dumps(lines, indent=1))
    replace_measured(PAGE, tables(lines))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
