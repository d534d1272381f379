"""The folder of prepared records as written on disk: its identity, contents and checks."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_pipelines.listing import Listing
from data_pipelines.preprocess import PAPER_GEOMETRY, Geometry
from data_pipelines.soft_edges import DEFAULT_OPTIONS, EdgeOptions
from sapl_jax.errors import UserError
from sapl_jax.files import sha256_of, write_json

METADATA = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A finished folder of records, or one to be made, whose counts are still to come.

    counts: pictures by split and class, {"train": {"authentic": n, "tampered": n}, ...}.
    num_skipped: files left out; skipped.json in the folder lists them with reasons.
    num_shared_sources: validation pictures of which a source is also in training.
    pairs: numbers of training records, an authentic picture's and that of one made from it.
    reused: these records were there already when `prepare` was called.
    """

    dir: Path = Path()
    dataset: str = ""
    geometry: Geometry = PAPER_GEOMETRY
    options: EdgeOptions = DEFAULT_OPTIONS
    val_fraction: float = 0.1
    seed: int = 0
    fingerprint: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    num_skipped: int = 0
    num_shared_sources: int = 0
    pairs: list[list[int]] = field(default_factory=list)
    reused: bool = field(default=False, compare=False)

    def num_examples(self, split: str) -> int:
        """Number of pictures in "train" or "validation"; 0 where that split was not asked for."""
        return sum(self.counts.get(split, {}).values())


def fingerprint(
    listing: Listing, geometry: Geometry, options: EdgeOptions, val_fraction: float, seed: int
) -> str:
    """12 hex digits that change with the pictures (names, sizes in bytes) and every setting."""
    pictures = [[sample.name, sample.image.stat().st_size] for sample in listing.samples]
    settings = [asdict(geometry), asdict(options), val_fraction, seed]
    return sha256_of(json.dumps([listing.name, pictures, settings], sort_keys=True).encode())[:12]


def write_metadata(prepared: Prepared, skipped: list[tuple[str, str]]) -> None:
    """Writes prepared.json and skipped.json beside the records already in the folder."""
    folder, rows = prepared.dir, [{"file": file, "reason": reason} for file, reason in skipped]
    write_json(folder / "skipped.json", rows)
    content = asdict(prepared)
    del content["dir"], content["reused"]
    records = {p.name: p.stat().st_size for p in sorted(folder.glob("*.array_record*"))}
    write_json(folder / METADATA, content | {"records": records})


def open_prepared(folder: str | Path) -> Prepared:
    """Opens a folder that `prepare` made.

    Raises UserError where there is none, or where a record file is missing or of another size
    than when it was written.
    """
    folder = Path(folder).expanduser()
    path, again = folder / METADATA, f"delete the folder {folder} and prepare the data again"
    if not path.is_file():
        raise UserError(
            f"no prepared data in {folder}: {METADATA} is missing. Give data.root "
            "as well, or the folder of which `sapl prepare` says that it is prepared in"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = content.pop("records")
        content["geometry"] = Geometry(**content["geometry"])
        content["options"] = EdgeOptions(**content["options"])
        prepared = Prepared(folder, **content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    for name, size in records.items():
        record = folder / name
        found = record.stat().st_size if record.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(f"prepared records are damaged: {record} {state}; {again}")
    return prepared
