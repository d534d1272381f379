"""What is wrong with a data set on disk: findings from its listing and from reading every file."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.duplicates import identical_across, identical_groups
from data_pipelines.images import decode_image, oddities, read_bytes
from data_pipelines.listing import AUTHENTIC, LABEL_NAMES, TAMPERED, Listing, Sample
from data_pipelines.masks import load_mask
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import read_ahead
from sapl_jax.errors import UserError

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
MIN_SIDE = 64


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where, and what to do about it."""

    what: str
    mend: str
    files: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Examined:
    """What one sample's files hold; `share` is the tampered share of its mask, if it has one."""

    sample: Sample
    size: tuple[int, int] | None = None
    share: float | None = None
    unreadable: str | None = None
    mask_problem: str | None = None
    mask_note: str | None = None
    oddities: tuple[str, ...] = ()


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
        return dataclasses.replace(found, mask_problem=str(error))
    share = float((mask.grey > 127).mean())
    return dataclasses.replace(found, share=share, mask_note=mask.note)


def diagnose(
    listing: Listing, examined: Sequence[Examined], against: Sequence[tuple[str, Listing]] = ()
) -> list[Finding]:
    """Everything that is wrong with a data set, most serious first."""
    return [
        *_classes(listing),
        *_pictures(listing, examined),
        *_masks(examined),
        *_duplicates(listing, against),
    ]


def _classes(listing: Listing) -> list[Finding]:
    findings = []
    counts = (listing.count(AUTHENTIC), listing.count(TAMPERED))
    expected = EXPECTED.get(listing.name)
    if expected is not None and counts != expected:
        findings.append(
            Finding(
                f"{counts[0]} authentic and {counts[1]} tampered pictures; a complete copy has "
                f"{expected[0]} and {expected[1]}",
                "download the missing part, or keep in mind that numbers from this copy do not "
                "compare with published ones",
            )
        )
    for label, name in enumerate(LABEL_NAMES):
        if counts[label] == 0 and (expected is None or expected[label] > 0):
            findings.append(
                Finding(
                    f"no {name} picture",
                    "training needs both classes; evaluation leaves I-AUC out without them",
                )
            )
    return findings


def _if_any(files: Iterable[str], what: str, mend: str) -> list[Finding]:
    """A finding that these files, whose number stands before `what`, have in common."""
    found = tuple(files)
    return [Finding(f"{len(found)} {what}", mend, found)] if found else []


def _pictures(listing: Listing, examined: Sequence[Examined]) -> list[Finding]:
    small = (
        f"{item.sample.image}: {item.size[1]}x{item.size[0]}"
        for item in examined
        if item.size and min(item.size) < MIN_SIDE
    )
    return [
        *_if_any(
            (f"{path}: {reason}" for path, reason in listing.skipped),
            "files are not used",
            "remove them, or convert pictures without loss (png, tif)",
        ),
        *_if_any(
            (item.unreadable for item in examined if item.unreadable),
            "pictures cannot be read",
            "download them again",
        ),
        *_if_any(
            small,
            f"pictures have a side under {MIN_SIDE} pixels",
            "check that they are pictures, not thumbnails",
        ),
    ]


def _masks(examined: Sequence[Examined]) -> list[Finding]:
    tampered = [item for item in examined if item.sample.label == TAMPERED and not item.unreadable]
    with_mask = [item for item in tampered if item.sample.mask is not None]
    if not with_mask:
        return []
    return [
        *_if_any(
            (str(item.sample.image) for item in tampered if item.sample.mask is None),
            f"of {len(tampered)} tampered pictures have no mask",
            "add the masks, or let pixel measures rest on the others (training needs none)",
        ),
        *_if_any(
            (item.mask_problem for item in with_mask if item.mask_problem),
            "masks cannot be used",
            "replace them; their pictures count in image-level measures only",
        ),
        *_if_any(
            (str(item.sample.mask) for item in with_mask if item.share == 0),
            "masks have no tampered pixel",
            "check the polarity (white = tampered) and that the file is the right one",
        ),
        *_polarity(with_mask),
    ]


def _polarity(with_mask: Sequence[Examined]) -> list[Finding]:
    shares = [item.share for item in with_mask if item.share is not None]
    # Forgers paste objects: in every known set the median mask covers far less than half.
    if len(shares) >= 5 and np.median(shares) > 0.5:
        return [
            Finding(
                f"masks look inverted: half of them mark over {np.median(shares):.0%} as tampered",
                "white must be tampered; invert the masks, or use the layout that knows them",
            )
        ]
    return _if_any(
        (str(item.sample.mask) for item in with_mask if item.share == 1),
        "masks mark every pixel as tampered",
        "check that they are masks; pixel AUC is not defined for them",
    )


def _duplicates(listing: Listing, against: Sequence[tuple[str, Listing]]) -> list[Finding]:
    images = [sample.image for sample in listing.samples]
    labels = {sample.image: sample.label for sample in listing.samples}
    groups = identical_groups(images)
    both = [group for group in groups if len({labels[path] for path in group}) > 1]
    findings = _if_any(
        (" = ".join(map(str, group)) for group in both),
        "pictures are both authentic and tampered (same bytes)",
        "remove the copy that is in the wrong folder",
    )
    findings += _if_any(
        (" = ".join(map(str, group)) for group in groups if group not in both),
        "pictures are there more than once (same bytes)",
        "remove the copies: they count several times",
    )
    for name, other in against:
        shared = identical_across(images, [sample.image for sample in other.samples])
        findings += _if_any(
            (f"{path} = {copy}" for path, copy in shared.items()),
            f"pictures are in {name} too (same bytes)",
            f"evaluate with --exclude {name}=PATH, which leaves them out",
        )
    return findings


def examine(listing: Listing, progress: bool = True) -> list[Examined]:
    """Reads every picture and mask of a listing, in threads."""
    found = read_ahead(examine_sample, listing.samples, 16)
    total = len(listing.samples)
    return list(ProgressBar(found, total=total, desc="reading", unit="image", disable=not progress))


def formats_tell_the_class(listing: Listing) -> bool:
    """Whether a picture's suffix says much about its label: the rarer class's formats differ."""
    shares = []
    for label in (AUTHENTIC, TAMPERED):
        suffixes = [s.image.suffix.lower() for s in listing.samples if s.label == label]
        counts = collections.Counter(suffixes)
        shares.append({suffix: count / len(suffixes) for suffix, count in counts.items()})
    if not all(shares):
        return False
    suffixes_seen = shares[0].keys() | shares[1].keys()
    return sum(abs(shares[0].get(s, 0) - shares[1].get(s, 0)) for s in suffixes_seen) / 2 > 0.1
