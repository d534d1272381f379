"""Examines a data set on disk: what is there, what is wrong, and how to mend it.

python -m data_pipelines.doctor --dataset NAME --root PATH [--against NAME=PATH]

Exit status: 0 when nothing is wrong, 1 when something is, 2 for a wrong command line.
"""

import collections
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.diagnosis import (
    Examined,
    Finding,
    diagnose,
    examine,
    formats_tell_the_class,
    suffixes,
)
from data_pipelines.listing import LABEL_NAMES, Listing
from data_pipelines.readers import READERS, read_dataset
from sapl_jax.errors import Parser, UserError, run_main

_SHOWN = 5  # files listed per finding


def describe(listing: Listing, examined: Sequence[Examined]) -> list[str]:
    """What is there, as lines of text: counts, formats, sizes, masks, oddities."""
    lines = [f"{listing.root}, read as {listing.name}"]
    for label, name in enumerate(LABEL_NAMES):
        found = suffixes(listing, label).most_common()
        formats = ", ".join(f"{count} {suffix}" for suffix, count in found)
        lines.append(f"  {listing.count(label):6d} {name}" + (f": {formats}" if formats else ""))
    masks = sum(sample.mask is not None for sample in listing.samples)
    lines.append(f"  {masks:6d} with a mask")
    shares = [item.share for item in examined if item.share is not None]
    if shares:
        lines.append(f"         tampered share of a mask: median {np.median(shares):.1%}")
    if sizes := [item.size for item in examined if item.size is not None]:
        (height, width), (tall, wide) = min(sizes, key=math.prod), max(sizes, key=math.prod)
        median = np.median([math.prod(size) for size in sizes]) / 1e6
        lines.append(
            f"         sizes: {width}x{height} to {wide}x{tall}, median {median:.2f} megapixels"
        )
    lines += [f"  note: {note}" for note in listing.notes]
    turned = sum(item.mask_note is not None for item in examined)
    if turned:
        lines.append(f"  note: {turned} masks are turned or of another size and get fitted")
    kinds = collections.Counter(kind for item in examined for kind in item.oddities)
    lines += [f"  note: {count} pictures: {kind}" for kind, count in kinds.most_common()]
    if formats_tell_the_class(listing):
        lines.append(
            "  note: file formats differ by class, so image-level scores may rest on compression"
        )
    return lines


def report(findings: Sequence[Finding], show_all: bool) -> list[str]:
    """The findings as lines of text, each with its files and its remedy."""
    if not findings:
        return ["nothing wrong found"]
    lines = []
    for number, finding in enumerate(findings, 1):
        lines.append(f"{number}. {finding.what}")
        shown = finding.files if show_all else finding.files[:_SHOWN]
        lines += [f"     {file}" for file in shown]
        if len(shown) < len(finding.files):
            lines.append(f"     and {len(finding.files) - len(shown)} more (--all lists them)")
        lines.append(f"   mend: {finding.mend}")
    return lines


def main() -> int:
    """The command; returns its exit status."""
    parser = Parser("sapl doctor", __doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(READERS), help="layout")
    parser.add_argument("--root", type=Path, required=True, help="its folder or list file")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="another data set, such as the training set, to look for the same pictures in",
    )
    parser.add_argument("--all", action="store_true", help="list every file of every finding")
    arguments = parser.parse_args()
    against = []
    for text in arguments.against:
        name, equals, path = text.partition("=")
        if not equals or name not in READERS:
            raise UserError(f"--against {text!r} is not NAME=PATH with NAME of {sorted(READERS)}")
        against.append((name, read_dataset(name, path)))
    try:
        listing = read_dataset(arguments.dataset, arguments.root)
    except UserError as error:
        print(f"1. cannot be read as {arguments.dataset}: {error}")
        return 1
    examined = examine(listing)
    findings = diagnose(listing, examined, against)
    print("\n".join([*describe(listing, examined), "", *report(findings, arguments.all)]))
    return 1 if findings else 0


if __name__ == "__main__":
    run_main(main)
