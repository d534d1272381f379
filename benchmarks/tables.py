"""Writes what was measured into the pages of docs/ that explain it."""

import statistics
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_GB = 1e9


def write_page(path: Path, lines: list[Line]) -> None:
    """Rewrites the tables of docs/performance.md; lines: of all benchmarks, every round."""
    replace_measured(path, measured(lines))


def replace_measured(path: Path, tables: str, mark: str = "measured") -> None:
    """Replaces what stands between the two marks of a page; the text around it stays."""
    start, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = path.read_text().split(start, 1)
    _, after = rest.split(end, 1)
    path.write_text(f"{before}{start}\n\n{tables}\n{end}{after}")


def measured(lines: list[Line]) -> str:
    """The measured part: tables in Markdown."""
    failed = [line for line in lines if "failed" in line]
    steps = [line for line in lines if "step_ms" in line]
    parts = [_step_tables(steps)] if steps else []
    parts += [_inference(line) for line in lines if line["what"] == "inference"]
    parts += [_input(line) for line in lines if line["what"] == "input"]
    parts += [_start(line) for line in lines if line["what"] == "start"]
    if failed:
        parts.append("Not measured:\n")
        parts += [f"- `{line['what']}`: {line['failed']}" for line in failed]
    return "\n".join(parts) + "\n"


def _step_tables(steps: list[Line]) -> str:
    out = []
    for chip in dict.fromkeys(line["chip"] for line in steps):
        here = [line for line in steps if line["chip"] == chip]
        example = here[0]
        out += [
            f"### Training step on {chip}\n",
            f"{example['model']}, longer side {example['size']} pixels, random weights; "
            f"1-minute load {_range(here, 'load_average')} while measuring.\n",
            "| batch | dtype | side | images/s | step ms | CPU ms | compile s | peak GB | MFU |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        keys = dict.fromkeys(_shape(line) for line in here)
        ratios = []
        for batch, dtype, remat in keys:
            same = [x for x in here if _shape(x) == (batch, dtype, remat)]
            sides = {
                what: [line for line in same if line["what"] == what]
                for what in dict.fromkeys(line["what"] for line in same)
            }
            name = f"{dtype}{', remat' if remat == 'blocks' else ''}"
            out += [_step_row(batch, name, what, found) for what, found in sides.items()]
            ours = sides.pop("train_step", None)
            ratios += [_ratio(batch, what, ours, peer) for what, peer in sides.items() if ours]
        out += ["", *ratios, ""] if ratios else [""]
        flops = {line["batch"]: line for line in here if line.get("program_flops")}
        out += [
            f"- batch {batch}: {line['program_flops'] / 1e12:.2f} TFLOP of matrix products in our "
            f"compiled program, {line['model_flops'] / 1e12:.2f} needed (without recomputation)."
            for batch, line in flops.items()
        ]
        out.append("")
    return "\n".join(out)


def _step_row(batch: int, dtype: str, what: str, lines: list[Line]) -> str:
    step = _median(lines, "step_ms")
    mfu = _median(lines, "mfu")
    cells = [
        str(batch),
        dtype,
        {"train_step": "ours"}.get(what, what.replace("torch_peer", "PyTorch")),
        f"{1e3 * batch / step:.3f}",
        f"{step:.0f}",
        f"{_median(lines, 'cpu_ms'):.0f}",
        f"{_median(lines, 'compile_s'):.1f}",
        f"{_median(lines, 'peak_memory_bytes') / _GB:.2f}",
        "-" if mfu is None else f"{mfu:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _ratio(batch: int, what: str, ours: list[Line], peer: list[Line]) -> str:
    def ratio(key: str) -> float:
        return _median(ours, key) / _median(peer, key)

    name = what.replace("torch_peer", "PyTorch")
    return (
        f"- batch {batch}, ours / {name}: step time {ratio('step_ms'):.2f}, processor time "
        f"{ratio('cpu_ms'):.2f}, peak memory {ratio('peak_memory_bytes'):.2f}."
    )


def _inference(line: Line) -> str:
    return (
        f"### Inference on {line['chip']}\n\n{line['model']}, {line['dtype']}, "
        f"{line['pictures']} pictures, load {line['load_average']:.1f}: predict "
        f"{line['predict_per_s']:.3f} pictures/s ({line['predict_cpu_ms']:.0f} ms of processor "
        f"time each), evaluate {line['evaluate_per_s']:.3f} pictures/s; first call "
        f"{line['first_call_s']:.1f} s with compiling.\n"
    )


def _input(line: Line) -> str:
    return (
        f"### Input on {line['chip']}\n\n{line['pictures']} pictures ({line['data']}), load "
        f"{line['load_average']:.1f}: preparing {line['prepared_per_s']:.0f} pictures/s "
        f"({line['prepare_cpu_ms']:.1f} ms of processor time each), reading prepared records "
        f"{line['read_per_s']:.0f} pictures/s ({line['read_cpu_ms']:.1f} ms each).\n"
    )


def _start(line: Line) -> str:
    out = [
        f"### Start on {line['chip']}\n",
        f"{line['model']}, longer side {line['size']} pixels, batch {line['batch']}, load "
        f"{line['load_average']:.1f}; first: nothing cached, second: the same again.\n",
        "| phase | first s | second s |",
        "| --- | --- | --- |",
    ]
    first, second = line["first"], line["second"]
    out += [f"| {phase} | {first[phase]:.1f} | {second[phase]:.1f} |" for phase in first]
    ready = [sum(v for k, v in x.items() if k != "first step") for x in (first, second)]
    out += [
        f"| ready for the first step | {ready[0]:.1f} | {ready[1]:.1f} |",
        f"\nThe second start takes {ready[1] / ready[0]:.2f} of the first until the first step "
        f"can run. Reading {line['weight_bytes'] / _GB:.2f} GB of weights while the program is "
        f"made took at most {line['load_peak_bytes'] / _GB:.2f} GB of memory.\n",
    ]
    return "\n".join(out)


def _median(lines: list[Line], key: str) -> Any:
    values = [line[key] for line in lines if line[key] is not None]
    return statistics.median(values) if values else None


def _range(lines: list[Line], key: str) -> str:
    values = [line[key] for line in lines]
    return f"{min(values):.1f} to {max(values):.1f}"


def _shape(line: Line) -> tuple[int, str, str]:
    return line["batch"], line["dtype"], line["remat"]
