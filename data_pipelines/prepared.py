"""The folder of prepared records as written on disk: its identity, contents and checks."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipelines.listing import Listing
from data_pipelines.preprocess import Geometry
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax.errors import UserError
from sapl_jax.files import write_json

METADATA = "prepared.json"
SKIPPED = "skipped.json"


@dataclass(frozen=True)
class Prepared:
    """A finished folder of records.

    counts: pictures by split and class, {"train": {"authentic": n, "tampered": n}, ...}.
    num_skipped: files left out; skipped.json in the folder lists them with reasons.
    num_shared_sources: validation pictures of which a source is also in training.
    reused: these records were there already when `prepare` was called.
    """

    dir: Path
    dataset: str
    geometry: Geometry
    options: EdgeOptions
    val_fraction: float
    seed: int
    fingerprint: str
    counts: dict[str, dict[str, int]]
    num_skipped: int
    num_shared_sources: int
    reused: bool = field(default=False, compare=False)

    @property
    def num_train(self) -> int:
        """Number of training pictures."""
        return self.num_examples("train")

    @property
    def num_val(self) -> int:
        """Number of validation pictures; 0 where no validation split was asked for."""
        return self.num_examples("validation")

    def num_examples(self, split: str) -> int:
        """Number of pictures in "train" or "validation"."""
        return sum(self.counts.get(split, {}).values())


def fingerprint(
    listing: Listing, geometry: Geometry, options: EdgeOptions, val_fraction: float, seed: int
) -> str:
    """12 hex digits that change with the pictures (names, sizes in bytes) and every setting."""
    pictures = [[sample.name, sample.image.stat().st_size] for sample in listing.samples]
    settings = [asdict(geometry), asdict(options), val_fraction, seed]
    text = json.dumps([listing.name, pictures, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_metadata(folder: Path, content: dict[str, Any], skipped: list[tuple[str, str]]) -> None:
    """Writes prepared.json and skipped.json beside the records already in `folder`."""
    records = {
        path.name: path.stat().st_size
        for path in sorted(folder.iterdir())
        if ".array_record" in path.name
    }
    rows = [{"file": file, "reason": reason} for file, reason in skipped]
    for name, value in ((SKIPPED, rows), (METADATA, {**content, "records": records})):
        write_json(folder / name, value)


def open_prepared(folder: str | Path) -> Prepared:
    """Opens a folder that `prepare` made.

    Raises UserError where there is none, or where a record file is missing or of another size
    than when it was written.
    """
    folder = Path(folder)
    path = folder / METADATA
    if not path.is_file():
        raise UserError(
            f"no prepared data in {folder}: {METADATA} is missing. Make it with "
            "python -m data_pipelines.prepare --dataset NAME --root PATH --output DIR"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = content.pop("records")
        prepared = Prepared(
            dir=folder,
            geometry=Geometry(**content.pop("geometry")),
            options=EdgeOptions(**content.pop("options")),
            **content,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); {_again(folder)}") from error
    for name, size in records.items():
        record = folder / name
        found = record.stat().st_size if record.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(f"prepared records are damaged: {record} {state}; {_again(folder)}")
    return prepared


def _again(folder: Path) -> str:
    return f"delete the folder {folder} and prepare the data again"
