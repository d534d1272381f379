"""Evaluates a checkpoint on data sets: a table on the screen, `results.json` and CSV files.

python -m sapl_jax.evaluate --checkpoint DIR --dataset casia_v2=PATH --output DIR
"""

import argparse
import sys
from pathlib import Path

from data_pipelines.readers import READERS, Listing, read_dataset
from sapl_jax.errors import UserError, run_main
from sapl_jax.evaluation import protocols, results
from sapl_jax.evaluation.evaluator import DatasetResult, evaluate_dataset

_DATASET_HELP = """\
NAME=PATH, repeatable. NAME is the name in the report; where it is a known layout ({layouts},
in any case, with or without dashes) the data set is read as that layout. Any other
NAME is read as a generic folder (Au/, Tp/, optional Gt/<stem>_gt.png), or, if PATH is a file, as a
list (.txt: MVSS, .json: IMDL-BenCo). NAME:LAYOUT=PATH gives a known layout another name."""


def parse_dataset(text: str) -> tuple[str, str, Path]:
    """Splits NAME=PATH or NAME:LAYOUT=PATH into (name, layout, path); else UserError."""
    name, equals, path = text.partition("=")
    name, colon, layout = name.partition(":")
    if not equals or not name or not path or (colon and not layout):
        raise UserError(f"--dataset {text!r} is not NAME=PATH or NAME:LAYOUT=PATH")
    known = {_plain(layout): layout for layout in READERS}
    if layout:
        if _plain(layout) not in known:
            raise UserError(
                f"--dataset {text!r}: no layout {layout!r}; there are {', '.join(sorted(READERS))}"
            )
        return name, known[_plain(layout)], Path(path)
    if _plain(name) in known:
        return name, known[_plain(name)], Path(path)
    by_suffix = {".txt": "mvss_txt", ".json": "benco_json"}
    return name, by_suffix.get(Path(path).suffix.lower(), "folder"), Path(path)


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sapl_jax.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's or export's folder")
    parser.add_argument(
        "--dataset",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help=_DATASET_HELP.format(layouts=", ".join(READERS)),
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--protocol", default=protocols.DEFAULT, choices=sorted(protocols.PROTOCOLS)
    )
    parser.add_argument(
        "--batch_size", type=int, default=8, help="pictures handed to the model at once"
    )
    return parser.parse_args(arguments)


def read_datasets(specifications: list[str]) -> list[tuple[str, Listing]]:
    """The (name, listing) of every --dataset; all are read before the first is evaluated."""
    parsed = [parse_dataset(text) for text in specifications]
    names = [name for name, _, _ in parsed]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--dataset names {doubled} twice; name one of them NAME:LAYOUT=PATH")
    return [(name, read_dataset(layout, path)) for name, layout, path in parsed]


def main() -> None:
    """The command."""
    arguments = parse_arguments(sys.argv[1:])
    protocol = protocols.get_protocol(arguments.protocol)
    if arguments.batch_size < 1:
        raise UserError(f"--batch_size is {arguments.batch_size}, it must be at least 1")
    listings = read_datasets(arguments.dataset)

    from sapl_jax.localizer import Localizer  # after the cheap checks: it loads JAX and weights

    localizer = Localizer.load(arguments.checkpoint)
    method = {"name": "SAPL", "checkpoint": str(arguments.checkpoint), **localizer.source}
    done: list[DatasetResult] = []
    for name, listing in listings:
        result = evaluate_dataset(
            localizer, listing, protocol, batch_size=arguments.batch_size, label=name
        )
        done.append(result)
        for path, reason in result.skipped:
            print(f"skipped {path}: {reason}", file=sys.stderr)
        for path, note in result.notes:
            print(f"note {path}: {note}", file=sys.stderr)
        results.write_images_csv(arguments.output / f"{name}.csv", result)
        # After every data set: what is done is kept if a later one fails.
        results.write_json(
            arguments.output / "results.json", results.build(done, protocol, method)
        )
    print(results.table(done))
    print(f"protocol {protocol.name}; details in {arguments.output / 'results.json'}")


if __name__ == "__main__":
    run_main(main)
