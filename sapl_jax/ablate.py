r"""Trains and evaluates the paper's ablations, one after the other; run it again to continue.

python -m sapl_jax.ablate --output runs/ablations --dataset casia_v1=PATH --dataset imd2020=PATH \
    --config.data.root=/data/CASIA2

Every row is `sapl_jax.train` with `configs/ablations.py:ROW` and `sapl_jax.evaluate` on what its
`train.keep` names, each in a process of its own. Flags that begin with --config. go to every
training. Rows that are finished are not run again; an interrupted one continues from its
checkpoint. The output folder receives ablations.json, ablations.md and one folder per row.
"""

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs import ablations
from data_pipelines.readers import parse_dataset
from sapl_jax.command_line import INTERRUPTED, parse_with_config_flags, run_command
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.evaluation.document import Section, Table, to_markdown
from sapl_jax.evaluation.protocols import DEFAULT, PROTOCOLS
from sapl_jax.evaluation.results import number, pair
from sapl_jax.files import make_output_folder, write_atomically, write_json
from sapl_jax.training.configuration import check_data, load_config

_MEASURES = ("i_auc", "p_f1")


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Reads the command line; the second part holds the --config.* flags for training."""
    parser = Parser("sapl ablate", __doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder of the whole study")
    add("--dataset", action="append", required=True, metavar="NAME=PATH", help="as for evaluate")
    groups = sorted(ablations.GROUPS)
    text = "comparisons to run (all by default)"
    add("--group", nargs="+", choices=groups, default=groups, help=text)
    add("--row", nargs="+", choices=sorted(ablations.ROWS), help="single rows, instead of groups")
    add("--protocol", default=DEFAULT, choices=sorted(PROTOCOLS))
    add("--dry-run", action="store_true", help="print the commands and run nothing")
    return parse_with_config_flags(parser, arguments)


def chosen_rows(groups: Sequence[str], rows: Sequence[str] | None) -> list[str]:
    """The rows to run, each once, in the order of the tables."""
    return list(dict.fromkeys(rows or [r for group in groups for r in ablations.GROUPS[group]]))


def commands(
    row: str,
    folder: Path,
    datasets: Sequence[str],
    protocol: str,
    config_flags: Sequence[str],
    base: str = "",
) -> list[list[str]]:
    """The two commands that make a row: train, evaluate. base: "" or "demo/"."""
    config = f"{Path(ablations.__file__)}:{base}{row}"
    train = ["sapl_jax.train", "--config", config, "--workdir", str(folder / "run"), *config_flags]
    evaluate = ["sapl_jax.evaluate", "--checkpoint", str(folder / "run"), "--protocol", protocol]
    evaluate += [part for dataset in datasets for part in ("--dataset", dataset)]
    evaluate += ["--output", str(folder / "evaluation"), "--no-report"]
    return [[sys.executable, "-m", *train], [sys.executable, "-m", *evaluate]]


def run_rows(
    rows: Sequence[str],
    output: Path,
    datasets: Sequence[str],
    protocol: str,
    config_flags: Sequence[str],
    launch: Callable[[list[str]], int] = run_command,
    base: str = "",
) -> list[str]:
    """Runs the rows that are not finished and writes the tables after each; returns failed rows.

    `launch` runs a command and returns its exit status. A command that was interrupted ends the
    study with KeyboardInterrupt; after one that fails otherwise the other rows still run.
    """
    failed = []
    request = {"datasets": list(datasets), "protocol": protocol, "config_flags": list(config_flags)}
    for count, row in enumerate(rows, 1):
        folder = output / row
        print(f"[{count}/{len(rows)}] {row}: {ablations.ROWS[row].title}", flush=True)
        if _finished(folder, request):
            print("  finished before", flush=True)
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for command in commands(row, folder, datasets, protocol, config_flags, base):
            print(f"  {shlex.join(command)}", flush=True)
            if "sapl_jax.evaluate" in command:  # Before: half done, or of other flags.
                (folder / "done.json").unlink(missing_ok=True)
                shutil.rmtree(folder / "evaluation", ignore_errors=True)
            status = launch(command)
            if status in INTERRUPTED:
                raise KeyboardInterrupt
            if status != 0:
                failed.append(row)
                print(f"  failed with status {status}", file=sys.stderr, flush=True)
                break
        else:
            write_json(folder / "done.json", request)
        _write_tables(output, request)
    _write_tables(output, request)
    return failed


def check_flags(rows: Sequence[str], config_flags: Sequence[str], base: str = "") -> None:
    """UserError for flags that the first row's training refuses, or of what rows vary."""
    load_config(f"{ablations.__file__}:{base}{rows[0]}", config_flags)
    varied = {f"model.{name}" for row in rows for name in ablations.ROWS[row].changes}
    varied |= {"seed"} if base else set()  # By which the demo's trainings differ.
    for name in (flag.removeprefix("--config.").partition("=")[0] for flag in config_flags):
        if name in varied:
            raise UserError(f"--config.{name}: trainings of this study differ in it; leave it out.")


def _finished(folder: Path, request: dict[str, Any]) -> bool:
    done = folder / "done.json"
    return done.is_file() and json.loads(done.read_text()) == request


def _write_tables(output: Path, request: dict[str, Any]) -> None:
    """Writes ablations.json and ablations.md from the rows of this request finished so far."""
    rows, protocol = {}, request["protocol"]
    for name, row in ablations.ROWS.items():
        if not _finished(output / name, request):
            continue
        found = json.loads((output / name / "evaluation" / "results.json").read_text())
        rows[name] = {
            "title": row.title,
            "changes": dict(row.changes),
            "published": dict(zip(_MEASURES, row.published, strict=True)),
            "mean": found["mean"],
            "datasets": {
                dataset: {k: entry[k] for k in (*_MEASURES, "intervals") if k in entry}
                for dataset, entry in found["datasets"].items()
            },
        }
    write_json(output / "ablations.json", {"protocol": protocol, "rows": rows})
    sections = [
        _grid(rows) if group == "grid" else _comparison(group, names, rows)
        for group, names in ablations.GROUPS.items()
    ]
    note = (
        f'Protocol {protocol}; I-AUC / P-F1. "Published" are the paper\'s means over CASIAv1 and '
        "IMD2020: they compare with the mean here only where these are the data sets. A dash marks "
        "a row that is not finished, or a measure that is not defined; brackets hold the middle "
        "95 % of data sets drawn from the pictures. One training a row says nothing of the spread "
        "between seeds: small differences may be chance."
    )
    sections.insert(0, Section("How to read this", [note]))
    write_atomically(output / "ablations.md", to_markdown("Ablations", sections))


def _comparison(group: str, names: Sequence[str], rows: dict[str, Any]) -> Section:
    datasets = list(dict.fromkeys(data for row in rows.values() for data in row["datasets"]))
    cells = []
    for name in names:
        row, found = ablations.ROWS[name], rows.get(name, {"mean": None, "datasets": {}})
        published = dict(zip(_MEASURES, row.published, strict=True))
        measured = [published, found["mean"], *map(found["datasets"].get, datasets)]
        cells.append([row.title, *(pair(each or {}, *_MEASURES) for each in measured)])
    return Section(group.capitalize(), [Table(["row", "published", "mean", *datasets], cells)])


def _grid(rows: dict[str, Any]) -> Section:
    cells = []
    for length in ablations.LENGTHS:
        names = [ablations.grid_row(length, queue) for queue in ablations.QUEUES]
        means = [number(rows[name]["mean"]["p_f1"]) if name in rows else "-" for name in names]
        cells.append([f"{length} prompt vectors", *means])
    header = ["P-F1", *(f"queue {queue}" for queue in ablations.QUEUES)]
    return Section("Prompt length and queue length", [Table(header, cells)])


def show(tables: Path, failed: Sequence[str]) -> int:
    """Prints a study's tables and the rows that failed; returns the command's exit status."""
    print(tables.read_text())
    if failed:
        print(f"failed: {', '.join(failed)}; run the command again to retry", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    """The command; returns 1 when a row failed."""
    arguments, flags = parse_arguments(sys.argv[1:])
    rows, output = chosen_rows(arguments.group, arguments.row), arguments.output
    study = (arguments.dataset, arguments.protocol, flags)
    if arguments.dry_run:
        for row in rows:
            for command in commands(row, output / row, *study):
                print(shlex.join(command))
        return 0
    # Mistakes are told now, not after the first training.
    check_flags(rows, flags)
    if open_rows := [row for row in rows if not (output / row / "done.json").is_file()]:
        config = load_config(f"{ablations.__file__}:{open_rows[0]}", flags)
        check_data(config, output / open_rows[0] / "run")
    for text in arguments.dataset:
        if not parse_dataset(text)[2].expanduser().exists():
            raise UserError(f"--dataset {text!r}: the path does not exist")
    make_output_folder(output)
    return show(output / "ablations.md", run_rows(rows, output, *study))


if __name__ == "__main__":
    run_main(main)
