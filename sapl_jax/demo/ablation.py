"""The paper's ablations on generated pictures that are as its premise says, over several seeds.

python -m sapl_jax.demo.ablation --output demo/ablation

Trains and evaluates every row of the paper's Tables 2-5 (modules, prompts, edges) and the controls
with another picture's edges on a small CLIP that comes along, in the world `seam`, where forgeries
differ at their outline only, in another (--world, of `sapl generate`) or on your own photographs,
forged. One seed comes after the other; mean and spread stand beside the paper's numbers, and every
difference in its Table 2 is called found or not found. Run it again to continue. Flags that begin
with --config. go to every training.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs import ablations
from data_pipelines.generator.examples import WORLDS
from sapl_jax.ablate import check_flags, chosen_rows, run_rows, show
from sapl_jax.command_line import parse_with_config_flags
from sapl_jax.demo.__main__ import make_data
from sapl_jax.errors import Parser, UserError, check_numbers, run_main
from sapl_jax.evaluation.document import Section, Table, to_markdown
from sapl_jax.evaluation.protocols import DEFAULT
from sapl_jax.evaluation.results import number
from sapl_jax.files import write_atomically, write_json
from sapl_jax.training.configuration import load_config

_GROUPS = ("modules", "prompts", "edges")
_NAME = "held-out"
Found = dict[str, dict[str, list[float | None]]]  # by row and measure, one value a seed
_MEASURES = {"i_auc": "I-AUC", "p_f1": "P-F1", "p_auc": "P-AUC"}
# Differences of the paper's Table 2, each row above the other, and the controls'.
DIFFERENCES = (
    ("ecpl", "clip_lora"), ("hecl", "clip_lora"), ("sapl", "clip_lora"), ("ecpl", "ecpl_no_edge"),
    ("hecl", "hecl_no_edge"), ("sapl", "ecpl"), ("sapl", "hecl"), ("hecl", "hecl_another"),
    ("ecpl_no_edge", "clip_lora"), ("hecl_no_edge", "clip_lora"), ("sapl", "sapl_another"),
)  # fmt: skip


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the command line; the second part holds the --config.* flags for training."""
    parser = Parser("python -m sapl_jax.demo.ablation", __doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, default=Path("demo/ablation"), help="folder of the whole study")
    add("--seeds", type=int, default=3, help="trainings of every row (default: 3)")
    add("--train-images", type=int, default=3000)
    add("--test-images", type=int, default=300)
    add("--world", choices=WORLDS, help="default: seam; of --photographs interior, all kinds")
    add("--photographs", type=Path, help="folder of real photographs to forge instead")
    add("--segments", type=Path, help="their label images; default: found by OpenCV")
    add("--row", nargs="+", choices=chosen_rows(_GROUPS, None), help="single rows")
    known, rest = parse_with_config_flags(parser, arguments)
    if known.segments and not known.photographs:
        raise UserError("--segments are of photographs: give --photographs too")
    check_numbers(known, seeds=(1, 1000), train_images=(2, 10**8), test_images=(2, 10**8))
    return known, rest


def collect(output: Path, rows: Sequence[str], seeds: int) -> Found:
    """The values of the rows that the tables of each seed (`sapl_jax.ablate`) have."""
    found: Found = {row: {measure: [] for measure in _MEASURES} for row in rows}
    for folder in (output / f"seed{seed}" for seed in range(seeds)):
        finished = json.loads((folder / "ablations.json").read_text())["rows"]
        for row in rows:
            entry: dict[str, float] = {}
            if row in finished:
                results = json.loads((folder / row / "evaluation" / "results.json").read_text())
                entry = results["datasets"][_NAME]
            for measure, values in found[row].items():
                values.append(entry.get(measure))
    return found


def spread(by_seed: Sequence[float | None]) -> str:
    """Mean ± standard deviation over the seeds that have a value; a dash without values."""
    values = [value for value in by_seed if value is not None]
    if len(values) < 2:
        return number(values[0] if values else None)
    return f"{number(float(np.mean(values)))} ± {number(float(np.std(values, ddof=1)))}"


def build_tables(found: Found) -> list[Section]:
    """One table per group: mean and spread of the measures beside the paper's; the differences."""
    header = ["row", "seeds", *_MEASURES.values(), "paper I-AUC", "paper P-F1"]
    sections = []
    for group in _GROUPS:
        lines = []
        for row in ablations.GROUPS[group]:
            if (values := found.get(row)) is not None:
                ours = [spread(values[measure]) for measure in _MEASURES]
                paper = map(number, ablations.ROWS[row].published)
                seeds = str(sum(value is not None for value in values["i_auc"]))
                lines.append([ablations.ROWS[row].title, seeds, *ours, *paper])
        if lines:
            sections.append(Section(group.capitalize(), [Table(header, lines)]))
    verdicts = [line for above, below in DIFFERENCES for line in _difference(found, above, below)]
    if verdicts:
        header = ["difference", "measure", "ours, seed by seed", "paper", "verdict"]
        sections.append(Section("Differences of Table 2", [Table(header, verdicts)]))
    note = (
        "Ours: small pictures made for it, mean ± standard deviation over seeds of training. The "
        "paper's: mean over CASIAv1 and IMD2020. Compare the order of the rows, not the numbers. A "
        "difference is found where its mean over the seeds is positive and beyond its spread."
    )
    return [Section("How to read this", [note]), *sections]


def _difference(found: Found, above: str, below: str) -> list[list[str]]:
    lines = []
    high, low = (ablations.ROWS[row] for row in (above, below))
    for index, measure in enumerate(_MEASURES):
        pairs = zip(*(found.get(row, {}).get(measure, []) for row in (above, below)), strict=False)
        gains = [a - b for a, b in pairs if a is not None and b is not None]
        if len(gains) < 2:  # One seed tells no difference from chance.
            continue
        a, b = ((*row.published, None)[index] for row in (high, low))
        paper = number(None if a is None or b is None else a - b)
        verdict = "found" if np.mean(gains) > np.std(gains, ddof=1) else "not found"
        title = f"{high.title} - {low.title}"
        lines.append([title, _MEASURES[measure], spread(gains), paper, verdict])
    return lines


def main() -> int:
    """The command; returns 1 when a row failed."""
    arguments, config_flags = parse_arguments(sys.argv[1:])
    output: Path = arguments.output
    rows = chosen_rows(_GROUPS, arguments.row)
    check_flags(rows, config_flags, base="demo/")
    size = load_config(f"{ablations.__file__}:demo/sapl", config_flags).image.size
    counts = arguments.train_images, arguments.test_images
    world = arguments.world or ("interior" if arguments.photographs else "seam")
    source = {"photographs": arguments.photographs, "segments": arguments.segments}
    train, test = make_data(output, *counts, size, world, **source)
    failed: list[str] = []
    for seed in range(arguments.seeds):
        print(f"seed {seed + 1} of {arguments.seeds}", flush=True)
        # The split depends on the seed too; records of each are kept apart by their fingerprint.
        flags = [
            f"--config.data.root={train}", f"--config.data.prepared={output / 'prepared'}",
            f"--config.seed={seed}", *config_flags,
        ]  # fmt: skip
        failed += run_rows(
            rows, output / f"seed{seed}", [f"{_NAME}:folder={test}"], DEFAULT, flags, base="demo/"
        )
        found = collect(output, rows, seed + 1)
        write_json(output / "ablation.json", found)
        text = to_markdown("Ablation on pictures made for it", build_tables(found))
        write_atomically(output / "ablation.md", text)
    return show(output / "ablation.md", failed)


if __name__ == "__main__":
    run_main(main)
