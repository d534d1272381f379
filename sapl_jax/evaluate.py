"""Evaluates checkpoints, training-free methods and other tools' maps on data sets.

python -m sapl_jax.evaluate --checkpoint DIR --dataset casia_v2=PATH --output DIR

Prints a table and writes into the output folder: results.json, one CSV per data set and method,
report.md, report.html and figures.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from data_pipelines.duplicates import without_training_pictures
from data_pipelines.listing import Listing
from data_pipelines.readers import READERS, parse_dataset, read_dataset
from sapl_jax import files
from sapl_jax.command_line import TILE_HELP, TILES, WHICH_HELP, print_files
from sapl_jax.errors import Parser, UserError, check_checkpoint, check_numbers, printable, run_main
from sapl_jax.evaluation import protocols, results
from sapl_jax.evaluation.baselines import CLASSICS, TRIVIAL
from sapl_jax.evaluation.map_folders import MapFolder
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.session import Method, Session, floors, run

_DATASET_HELP = """\
NAME=PATH, repeatable. NAME is the name in the report; where it is a known layout ({layouts},
in any case, with or without dashes) the data set is read as that layout. Any other
NAME is read as a generic folder (Au/, Tp/, optional Gt/<stem>_gt.png), or, if PATH is a file, as a
list (.txt: MVSS, .json: IMDL-BenCo). NAME:LAYOUT=PATH gives a known layout another name."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("sapl evaluate", __doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a training run's folder, or an export's")
    add("--which", choices=("last", "best"), help=WHICH_HELP)
    repeatable: dict[str, Any] = {"action": "append", "default": []}
    text = "a training-free method, in place of a checkpoint or beside it; repeatable"
    add("--method", **repeatable, choices=CLASSICS, help=text)
    text = "another tool's heat maps (PNG, TIFF, NPY, NPZ) by the pictures' names; repeatable"
    add("--maps", **repeatable, metavar="NAME=FOLDER", help=text)
    text = _DATASET_HELP.format(layouts=", ".join(READERS))
    add("--dataset", action="append", required=True, metavar="NAME=PATH", help=text)
    text = "a training set; pictures that it has too (same bytes) are left out; repeatable"
    add("--exclude", **repeatable, metavar="NAME=PATH", help=text)
    add("--output", type=Path, required=True, help="folder for the results")
    add("--protocol", default=protocols.DEFAULT, choices=sorted(protocols.PROTOCOLS))
    add("--robustness", nargs="+", default=[], choices=SWEEPS, help="sweeps to run as well")
    add("--seed", type=int, default=0, help="of the sweeps' noise and of t-SNE")
    add("--tile", type=int, help=TILE_HELP)
    add("--tile-overlap", type=float, default=0.25, help="share of a tile, 0 to 0.9")
    add("--batch-size", type=int, help="pictures handed to the model at once (default: its own)")
    add("--gallery", type=int, default=6, help="pictures per data set in the report")
    add("--no-report", action="store_true", help="write no report.md and report.html")
    return parser.parse_args(arguments)


def read_datasets(specifications: list[str], exclude: list[str]) -> list[tuple[str, Listing]]:
    """The (name, listing) of every --dataset; all are read before the first is evaluated."""
    parsed = [parse_dataset(text) for text in specifications]
    names = [name.replace(" ", "_") for name, _, _ in parsed]  # as their files are named
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--dataset names {doubled} twice; name one of them NAME:LAYOUT=PATH")
    training = [read_dataset(*parse_dataset(text, "--exclude")[1:]) for text in exclude]
    listings = []
    for name, layout, path in parsed:
        listing = whole = read_dataset(layout, path)
        for other in training:
            listing = without_training_pictures(listing, other)
        if training:
            known, count = len(whole.samples) - len(listing.samples), len(whole.samples)
            print(f"{name}: {known} of {count} pictures left out by --exclude", file=sys.stderr)
        if not listing.samples:
            raise UserError(f"{name}: every picture is also in a training set of --exclude")
        listings.append((name, listing))
    return listings


def load_methods(arguments: argparse.Namespace, sets: list[str]) -> list[Method]:
    """The checkpoint's method first, then the training-free ones and other tools' maps."""
    names = dict.fromkeys(arguments.method)
    methods = [Method(name, CLASSICS[name], {"training": "none"}) for name in names]
    ours = set() if arguments.checkpoint is None else {"SAPL"}
    for text in arguments.maps:  # before the checkpoint: mistakes are told first
        name, _, folder = text.partition("=")
        taken = {other.replace(" ", "_") for other in (*(m.name for m in methods), *ours, *TRIVIAL)}
        if not name or not folder or "/" in name or name.replace(" ", "_") in taken:
            raise UserError(f"--maps {text!r} is not NAME=FOLDER with a name that is still free")
        source = {"folder": folder, "sha256": files.tree_sha256(Path(folder).expanduser())}
        methods.append(Method(name, MapFolder(folder, sets), source))
    if arguments.checkpoint is not None:
        # These load JAX, which the classics do not need.
        from sapl_jax.devices import use_compilation_cache
        from sapl_jax.inference.localizer import Localizer

        use_compilation_cache()
        tiles = {"tile": arguments.tile, "overlap": arguments.tile_overlap}
        localizer = Localizer.load(arguments.checkpoint, which=arguments.which, **tiles)
        sha256 = files.tree_sha256(Path(localizer.source["weights"]))
        source = {"folder": str(arguments.checkpoint), **localizer.source, "sha256": sha256}
        if localizer.tile:
            source |= tiles | {"tile": localizer.tile}
        methods.insert(0, Method("SAPL", localizer, source))
    return methods


def main() -> None:
    """The command."""
    arguments = parse_arguments(sys.argv[1:])
    check_numbers(arguments, batch_size=(1, 4096), gallery=(0, 100), seed=(0, 2**32 - 1), **TILES)
    check_checkpoint(arguments.checkpoint)
    if not (arguments.checkpoint or arguments.method or arguments.maps):
        raise UserError("give --checkpoint DIR, --method noi1 or cfa1, or --maps NAME=FOLDER")
    if arguments.robustness and not (arguments.checkpoint or arguments.method):
        raise UserError("--robustness needs a method that can analyse pictures, not --maps alone")
    files.make_output_folder(arguments.output)
    if (arguments.output / "results.json").exists():
        raise UserError(f"{arguments.output} has results.json already; give another --output.")
    listings = read_datasets(arguments.dataset, arguments.exclude)
    methods = load_methods(arguments, [name for name, _ in listings])
    if arguments.batch_size is None:
        arguments.batch_size = getattr(methods[0].detector, "batch_size", 8)

    saving = functools.partial(files.writing, arguments.output, "Free space, or choose another.")

    def save(session: Session, method: Method | None) -> None:
        """Writes what is done so far, so that it is kept if a later data set fails."""
        with saving():
            if method is not None:
                *_, result = session.results[method.name].values()
                name = f"{result.name}.{method.name}.csv".replace(" ", "_")
                results.write_images_csv(arguments.output / name, result)
            files.write_json(arguments.output / "results.json", results.build(session))

    session = run(
        methods + floors(),
        listings,
        protocols.PROTOCOLS[arguments.protocol],
        sweeps=[SWEEPS[name] for name in dict.fromkeys(arguments.robustness)],
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        gallery_size=arguments.gallery,
        after_each=save,
    )
    for method in methods:
        if method is methods[0] or isinstance(method.detector, MapFolder):
            for result in session.results[method.name].values():
                print_files("skipped", result.skipped, "results.json")
                print_files("note", result.notes, "results.json")
    for name, who, reason in session.unusable:
        print(f"{name}: {who} left out: {printable(reason)}", file=sys.stderr)
    if not arguments.no_report:
        from sapl_jax.evaluation import report  # matplotlib, only for reports

        with saving():
            report.write(session, arguments.output, listings)
    print(results.table(session))
    print(f"protocol {session.protocol.name}; details in {arguments.output}")


if __name__ == "__main__":
    run_main(main)
