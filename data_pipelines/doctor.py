"""Examines a data set on disk: what is there, what is wrong, and how to mend it.

python -m data_pipelines.doctor --dataset NAME --root PATH [--against NAME=PATH]

Exit status: 0 when nothing is wrong, 1 when something is, 2 for a wrong command line.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.duplicates import identical_across, identical_groups
from data_pipelines.images import MIN_SIDE, decode_image, oddities, read_bytes
from data_pipelines.listing import AUTHENTIC, LABEL_NAMES, TAMPERED, Listing, Sample
from data_pipelines.masks import SUSPECT, load_mask, looks_inverted
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import read_ahead
from data_pipelines.readers import READERS, parse_dataset, read_dataset
from sapl_jax.errors import Parser, UserError, printable, run_main

# (authentic, tampered) of a complete copy, as published and as commonly used.
EXPECTED = {
    "casia_v2": (7491, 5123),
    "casia_v1": (800, 920),
    "columbia": (183, 180),
    "coverage": (100, 100),
    "imd2020": (414, 2010),
    "nist16": (0, 564),
    "dso1": (100, 100),
    "cocoglide": (512, 512),
    "autosplice": (2273, 3621),
    "comofod": (200, 200),
}
_SHOWN = 5  # files listed per finding


class Finding(NamedTuple):
    """One thing that is wrong: what, what to do about it, and in which files."""

    what: str
    mend: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """What one sample's files hold; `share` is the tampered share of its mask, if it has one."""

    sample: Sample
    size: tuple[int, int] | None = None
    share: float | None = None
    unreadable: str | None = None
    mask_problem: str | None = None
    mask_note: str | None = None
    oddities: tuple[str, ...] = ()


def examine(listing: Listing) -> list[Examined]:
    """Reads every picture and mask of a listing, in threads."""
    found = read_ahead(examine_sample, listing.samples, 16)
    return list(ProgressBar(found, total=len(listing.samples), desc="reading", unit="image"))


def examine_sample(sample: Sample) -> Examined:
    """Reads a sample's picture and mask and says what they hold; never raises UserError."""
    try:
        data = read_bytes(sample.image)
        image = decode_image(data, sample.image)
    except UserError as error:
        return Examined(sample, unreadable=str(error))
    found = Examined(sample, (image.shape[0], image.shape[1]), oddities=tuple(oddities(data)))
    if sample.label != TAMPERED or sample.mask is None:
        return found
    try:
        mask = load_mask(sample.mask, image, sample.mask_style)
    except UserError as error:
        return replace(found, mask_problem=str(error))
    return replace(found, share=float((mask.grey > 127).mean()), mask_note=mask.note)


def diagnose(
    listing: Listing, examined: Sequence[Examined], against: Sequence[tuple[str, Listing]] = ()
) -> list[Finding]:
    """Everything that is wrong with a data set, most serious first."""
    skipped = (f"{path}: {reason}" for path, reason in listing.skipped)
    unreadable = (item.unreadable for item in examined if item.unreadable)
    sizes = ((item.sample.image, item.size) for item in examined if item.size)
    small = (f"{path}: {size[1]}x{size[0]}" for path, size in sizes if min(size) < MIN_SIDE)
    what = f"pictures have a side under {MIN_SIDE} pixels"
    mend = "remove them, convert pictures without loss (png, tif), copy what is missing"
    return [
        *_classes(listing),
        *_if_any(skipped, "files are not used", mend),
        *_if_any(unreadable, "pictures cannot be read", "download them again, or convert them"),
        *_if_any(small, what, "check that they are pictures, not thumbnails"),
        *_masks(examined, listing.name),
        *_duplicates(listing, against),
    ]


def _classes(listing: Listing) -> list[Finding]:
    counts = (listing.count(AUTHENTIC), listing.count(TAMPERED))
    expected = EXPECTED.get(listing.name, counts)
    findings = []
    if counts != expected:
        what = "{} authentic and {} tampered pictures; a complete copy has {} and {}"
        mend = "download the missing part, or keep in mind that numbers from this copy do not "
        mend += "compare with published ones"
        findings.append(Finding(what.format(*counts, *expected), mend))
    mend = "training needs both classes; evaluation leaves I-AUC out without them"
    for label, name in enumerate(LABEL_NAMES):
        if counts[label] == 0 and (listing.name not in EXPECTED or expected[label] > 0):
            findings.append(Finding(f"no {name} picture", mend))
    return findings


def _if_any(files: Iterable[object], what: str, mend: str) -> list[Finding]:
    """A finding that these files, whose number stands before `what`, have in common."""
    found = tuple(map(str, files))
    return [Finding(f"{len(found)} {what}", mend, found)] if found else []


def _masks(examined: Sequence[Examined], layout: str) -> list[Finding]:
    tampered = [item for item in examined if item.sample.label == TAMPERED and not item.unreadable]
    with_mask = [item for item in tampered if item.sample.mask is not None]
    if not with_mask and layout not in EXPECTED:  # whose masks are part of the set
        return []
    bare = (item.sample.image for item in tampered if item.sample.mask is None)
    what = f"of {len(tampered)} tampered pictures have no mask"
    mend = "add the masks, or let pixel measures rest on the others (training needs none)"
    findings = _if_any(bare, what, mend)
    unusable = (item.mask_problem for item in with_mask if item.mask_problem)
    mend = "replace them; their pictures count in image-level measures only"
    findings += _if_any(unusable, "masks cannot be used", mend)
    empty = (item.sample.mask for item in with_mask if item.share == 0)
    mend = "check the polarity (white = tampered) and that the file is the right one"
    findings += _if_any(empty, "masks have no tampered pixel", mend)
    shares = [item.share for item in with_mask if item.share is not None]
    if what := looks_inverted(shares):
        mend = "white must be tampered; invert the masks, or use the layout that knows them"
        return [*findings, Finding(what, mend)]
    whole = (item.sample.mask for item in with_mask if (item.share or 0) > SUSPECT)
    mend = "check the polarity (white = tampered) and that they are masks"
    return findings + _if_any(whole, "masks mark over 90 % as tampered", mend)


def _duplicates(listing: Listing, against: Sequence[tuple[str, Listing]]) -> list[Finding]:
    labels = {sample.image: sample.label for sample in listing.samples}
    kinds: tuple[list[str], list[str]] = ([], [])
    for group in identical_groups(labels):
        of_one_class = len({labels[path] for path in group}) == 1
        kinds[of_one_class].append(" = ".join(map(str, group)))
    both = "pictures are both authentic and tampered (same bytes)"
    more = "pictures are there more than once (same bytes)"
    findings = _if_any(kinds[0], both, "remove the copy that is in the wrong folder")
    findings += _if_any(kinds[1], more, "remove the copies: they count several times")
    for name, other in against:
        shared = identical_across(labels, [sample.image for sample in other.samples])
        what = f"pictures are in {name} too (same bytes)"
        mend = f"evaluate with --exclude {name}=PATH, which leaves them out"
        findings += _if_any((f"{path} = {copy}" for path, copy in shared.items()), what, mend)
    return findings


def formats_tell_the_class(listing: Listing) -> bool:
    """Whether a picture's suffix says much about its label: the rarer class's formats differ."""
    counts = [_suffixes(listing, label) for label in (AUTHENTIC, TAMPERED)]
    if not all(counts):
        return False
    a, b = ({s: n / count.total() for s, n in count.items()} for count in counts)
    return sum(abs(a.get(s, 0) - b.get(s, 0)) for s in a.keys() | b.keys()) / 2 > 0.1


def _suffixes(listing: Listing, label: int) -> Counter[str]:
    return Counter(s.image.suffix.lower() for s in listing.samples if s.label == label)


def describe(listing: Listing, examined: Sequence[Examined]) -> list[str]:
    """What is there, as lines of text: counts, formats, sizes, masks, oddities."""
    lines = [f"{listing.root}, read as {listing.name}"]
    for label, name in enumerate(LABEL_NAMES):
        found = _suffixes(listing, label).most_common()
        formats = ", ".join(f"{count} {suffix}" for suffix, count in found)
        lines.append(f"  {listing.count(label):6d} {name}" + (f": {formats}" if formats else ""))
    masks = sum(sample.mask is not None for sample in listing.samples)
    lines.append(f"  {masks:6d} with a mask")
    if shares := [item.share for item in examined if item.share is not None]:
        lines.append(f"         tampered share of a mask: median {np.median(shares):.1%}")
    if sizes := [item.size for item in examined if item.size is not None]:
        (height, width), (tall, wide) = min(sizes, key=math.prod), max(sizes, key=math.prod)
        median = np.median([math.prod(size) for size in sizes]) / 1e6
        limits = f"{width}x{height} to {wide}x{tall}"
        lines.append(f"         sizes: {limits}, median {median:.2f} megapixels")
    notes = list(listing.notes)
    if turned := sum(item.mask_note is not None for item in examined):
        notes.append(f"{turned} masks are turned or of another size and get fitted")
    kinds = Counter(kind for item in examined for kind in item.oddities)
    notes += [f"{count} pictures: {kind}" for kind, count in kinds.most_common()]
    if formats_tell_the_class(listing):
        notes.append("file formats differ by class, so image-level scores may rest on compression")
    return lines + [f"  note: {note}" for note in notes]


def report(findings: Sequence[Finding], show_all: bool) -> list[str]:
    """The findings as lines of text, each with its files and its remedy."""
    lines = []
    for number, finding in enumerate(findings, 1):
        lines.append(f"{number}. {finding.what}")
        shown = finding.files if show_all else finding.files[:_SHOWN]
        lines += [f"     {file}" for file in shown]
        if len(shown) < len(finding.files):
            lines.append(f"     and {len(finding.files) - len(shown)} more (--all lists them)")
        lines.append(f"   mend: {finding.mend}")
    return lines or ["nothing wrong found"]


def main() -> int:
    """The command; returns its exit status."""
    parser = Parser("sapl doctor", __doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(READERS), help="layout")
    parser.add_argument("--root", type=Path, required=True, help="its folder or list file")
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=PATH",
        help="another data set, such as the training set, to look for the same pictures in",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="list every file of every finding")
    arguments = parser.parse_args()
    against = []
    for text in arguments.against:
        _, layout, path = parse_dataset(text, "--against")
        against.append((text.partition("=")[0], read_dataset(layout, path)))
    try:
        listing = read_dataset(arguments.dataset, arguments.root)
    except UserError as error:
        print(f"1. cannot be read as {arguments.dataset}: {printable(error)}")
        return 1
    examined = examine(listing)
    findings = diagnose(listing, examined, against)
    lines = [*describe(listing, examined), "", *report(findings, arguments.all)]
    print("\n".join(map(printable, lines)))
    return 1 if findings else 0


if __name__ == "__main__":
    run_main(main)
