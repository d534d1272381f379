"""Writes what compile_for said into docs/scaling.md: python -m benchmarks.compiled LINES.jsonl."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.tables import replace_measured

_PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"


def table(lines: list[dict[str, Any]]) -> str:
    """A table in Markdown of the lines of `benchmarks.compile_for`."""
    example = lines[0]
    out = [
        f"JAX {example['versions']['jax']}, {example['model']}, longer side {example['size']} "
        f"pixels, {example['dtype']}. All for one device.\n",
        "| program | chip | devices | pictures on each | computed again | GB in use, usable | "
        "GB a picture | most pictures | TFLOP of products (needed) | MB reduced, gathered | "
        "least ms: products, memory, links |",
        "|" + " --- |" * 11,
    ]
    for line in lines:
        batch, moved = line["batch_per_device"], line["collectives"]
        each = (line["memory_bytes"] - line["argument_bytes"]) / batch
        step = "model_flops" in line
        needed = f" ({line['model_flops'] / 1e12:.1f})" if step else ""
        reduced, gathered = (moved.get(k, {}).get("bytes", 0) for k in ("all-reduce", "all-gather"))
        cells = (
            line["what"].removeprefix("compiled "),
            line["target"],
            line["devices"],
            batch,
            line["remat"] if step else "-",
            f"{line['memory_bytes'] / 1e9:.1f}, {line['usable_bytes'] / 1e9:.1f}",
            f"{each / 1e9:.2f}",
            line.get("largest_batch_per_device", "-"),
            f"{line['program_flops'] / 1e12:.1f}{needed}",
            f"{reduced / 1e6:.0f}, {gathered / 1e6:.0f}",
            ", ".join(f"{line['roofline_ms'][k]:.1f}" for k in ("products", "memory", "links")),
        )
        out.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Flags to the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=Path, help="what compile_for printed, one JSON line each")
    args = parser.parse_args()
    lines = [json.loads(line) for line in args.lines.read_text().splitlines()]
    replace_measured(_PAGE, table(lines), "compiled")


if __name__ == "__main__":
    main()
