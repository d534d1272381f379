"""Compiles our programs for GPUs and TPUs that are not here, and says what they will need.

    python -m benchmarks.compile_for --gpu h100 --devices 8
    python -m benchmarks.compile_for --tpu v5e:8x8 --batch 12

One JSON line for the training step and one for prediction. All figures are for each device and
come from the compiler; only `roofline_ms` is an estimate: what the chip's data sheet allows.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.case import Case, argument_parser, case_of, model_flops, peak_flops
from benchmarks.targets import Target, prepare, target_of
from sapl_jax.errors import UserError

# What the driver and the compiler's own code take of a device, in bytes.
_RESERVE = 0.5e9
Line = dict[str, Any]


def compile_line(program: str, target: Target, case: Case, text: Path | None) -> Line:
    """The figures of one compiled program; `case.batch` is that of all devices together."""
    import jax

    from benchmarks.flops import product_flops
    from benchmarks.lowering import prediction_program, step_program
    from benchmarks.program import by_kind, collectives, fused_attention
    from benchmarks.train_step import config_of

    devices = target.devices()
    make = step_program if program == "step" else prediction_program
    made = make(config_of(case), devices)
    started = time.perf_counter()
    # Without a GPU to try them on, XLA cannot choose its own kernels for products (some of its
    # defaults do not even compile); cuBLAS is what it would choose for products of these sizes.
    options: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
    lowered = made.lower()
    compiled: Any = lowered.compile(options if target.platform == "gpu" else None)
    compile_s = time.perf_counter() - started
    shown = compiled.as_text()
    if text:
        text.write_text(shown)
    memory = compiled.memory_analysis()
    flops = product_flops(made.trace().jaxpr, {"gpu": "cuda"}.get(target.platform, "tpu"))
    line = {
        "what": f"compiled {program}",
        "target": devices[0].device_kind,
        "topology": target.topology,
        "devices": len(devices),
        "model": case.model,
        "size": case.size,
        "batch_per_device": case.batch // len(devices),
        "dtype": case.dtype,
        "remat": case.remat,
        "compile_s": round(compile_s, 1),
        "argument_bytes": memory.argument_size_in_bytes,
        "memory_bytes": _memory(memory),
        "usable_bytes": int(target.usable_bytes),
        "collectives": by_kind(collectives(shown)),
        "program_flops": flops,
        "cudnn_calls": fused_attention(shown),
        "versions": {"jax": jax.__version__},
    }
    line["roofline_ms"] = _roofline(line, target)
    needed = model_flops(case)
    if program == "step" and needed:
        line["model_flops"] = needed / len(devices)
    return line


def _recomputing(case: Case, target: Target, devices: int) -> Case:
    """The case with "auto" replaced by what a run there would take."""
    import jax.numpy as jnp

    from sapl_jax.clip.config import BUILT_IN
    from sapl_jax.training.memory import fitting_level

    if case.remat != "auto":
        return case
    vision = BUILT_IN[case.model].vision
    side = case.grid(vision.patch_size) * vision.patch_size
    shape = (case.batch // devices, side, side, 3)
    level = fitting_level(vision, shape, jnp.dtype(case.dtype), target.usable_bytes)
    return dataclasses.replace(case, remat=level)


def largest_batch(program: str, target: Target, case: Case) -> int | None:
    """The most pictures for each device that fit, found by compiling; None where not one does."""
    import jax

    devices = len(target.devices())

    def bytes_at(batch: int) -> float:
        try:
            other = dataclasses.replace(case, batch=batch * devices)
            return compile_line(program, target, other, None)["memory_bytes"]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return float("inf")

    return largest_that_fits(bytes_at, case.batch // devices, target.usable_bytes - _RESERVE)


def largest_that_fits(bytes_at: Callable[[int], float], start: int, limit: float) -> int | None:
    """The largest whole number whose `bytes_at` is within a limit, to one or one in thirty.

    A straight line through what is known says where to look; infinite where it cannot be told.
    """
    known: dict[int, float] = {}
    fits, too_large, guess = 0, None, start
    while True:
        known[guess] = bytes_at(guess)
        if known[guess] <= limit:
            fits = max(fits, guess)
        else:
            too_large = min(too_large or guess, guess)
        if too_large and too_large - fits <= 1 + fits // 30:
            return fits or None
        told = sorted(number for number in known if known[number] < float("inf"))
        guess = (fits + too_large) // 2 if too_large else 2 * fits
        if len(told) > 1:
            upper = max(1, sum(number <= fits for number in told) - (told[-1] <= fits))
            low, high = told[upper - 1], told[upper]
            slope = (known[high] - known[low]) / (high - low)
            guess = int(low + (limit - known[low]) / slope) if slope > 0 else guess
            if fits and guess <= fits + fits // 30:
                return fits
        guess = max(fits + 1, min(guess, too_large - 1) if too_large else guess)


def _memory(memory: Any) -> int:
    """Bytes in use at once: of arguments, results that are not donated arguments, and the rest.

    A TPU's compiler says it; the temporary bytes it states are a sum of more than one memory.
    """
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = memory.argument_size_in_bytes + results + memory.temp_size_in_bytes
    return min(memory.peak_memory_in_bytes or total, total)


def _roofline(line: Line, target: Target) -> Line:
    """Milliseconds no run can do without by the data sheet; None where the sheet is silent.

    products: at the peak rate of the matrix units. memory: everything that is kept, written and
    read once. links: a ring's share of the reduced, and the gathered, through one direction.
    """
    peak, flops = peak_flops(line["target"], line["dtype"]), line["program_flops"]
    facts, number = target.facts, line["devices"]
    touched = 2 * line["memory_bytes"] - line["argument_bytes"]
    reduced, gathered = (
        line["collectives"].get(kind, {}).get("bytes", 0) for kind in ("all-reduce", "all-gather")
    )
    ring = (number - 1) / number * (2 * reduced + gathered)
    return {
        "products": round(1e3 * flops / peak, 2) if peak and flops else None,
        "memory": round(1e3 * touched / facts["bandwidth"], 2),
        "links": round(1e3 * ring / facts["link"], 2),
    }


def main() -> None:
    """Flags to JSON lines."""
    parser = argument_parser(__doc__)
    parser.set_defaults(batch=12, dtype="bfloat16")
    chip = parser.add_mutually_exclusive_group(required=True)
    chip.add_argument("--gpu", metavar="NAME", help="of benchmarks/targets.toml: h100, a100, ...")
    chip.add_argument("--tpu", metavar="NAME[:TOPOLOGY]", help="v5e:2x4, v4, v5p, v6e, ...")
    parser.add_argument("--devices", type=int, default=1, help="GPUs of one host")
    parser.add_argument("--plugins", type=Path, help="folder with the compiler's packages")
    parser.add_argument("--program", choices=("step", "prediction"), help="default: both")
    parser.add_argument("--no-largest", action="store_true", help="skip the search of the batch")
    parser.add_argument("--text", type=Path, help="write the compiled program here (--program)")
    args = parser.parse_args()
    try:
        target = target_of(args.gpu, args.tpu, args.devices)
        prepare(target, args.plugins)
        number = len(target.devices())
        args.batch *= number
        case = _recomputing(case_of(args), target, number)
        for program in (args.program,) if args.program else ("step", "prediction"):
            line = compile_line(program, target, case, args.text)
            if not args.no_largest:
                line["largest_batch_per_device"] = largest_batch(program, target, case)
            print(json.dumps(line), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
