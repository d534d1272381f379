"""The data sets that can be read, by name: the `read_NAME` of one of the modules reads NAME."""

import re
from collections.abc import Callable
from pathlib import Path

from data_pipelines import folder_readers, list_readers
from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from sapl_jax.errors import UserError

READERS: dict[str, Callable[[Path], Listing]] = {
    name.removeprefix("read_"): function
    for module in (folder_readers, list_readers)
    for name, function in vars(module).items()
    if name.startswith("read_") and function.__module__ == module.__name__  # not an import
}


def read_dataset(name: str, root: str | Path, *, both_classes: bool = False) -> Listing:
    """Lists the pictures of a data set; opens neither pictures nor masks.

    both_classes: demand authentic and tampered pictures, as training does; evaluation need not.
    Raises UserError for a name not in READERS, a root that is not a folder, holds no picture, or
    is not of the named layout.
    """
    if name not in READERS:
        raise UserError(f"no data set named {name!r}; choose one of: {', '.join(sorted(READERS))}")
    try:
        listing = READERS[name](Path(root).expanduser())
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    counts = [listing.count(label) for label in (AUTHENTIC, TAMPERED)]
    if both_classes and not all(counts):
        raise UserError(
            f"{listing.root}: found {counts[0]} authentic and {counts[1]} tampered pictures; "
            "training needs both. Put authentic pictures into Au/ and tampered ones into Tp/"
        )
    return listing


def parse_dataset(text: str, flag: str = "--dataset") -> tuple[str, str, Path]:
    """Splits NAME=PATH or NAME:LAYOUT=PATH into (name, layout, path); else UserError."""
    name, equals, path = text.partition("=")
    name, colon, layout = name.partition(":")
    if not equals or not name or not path or (colon and not layout):
        raise UserError(f"{flag} {text!r} is not NAME=PATH or NAME:LAYOUT=PATH")
    if "/" in name or name.startswith("."):
        raise UserError(f"{flag} {text!r}: {name!r} cannot be a name, it is part of file names")
    known = {_plain(layout): layout for layout in READERS}
    if layout and _plain(layout) not in known:
        raise UserError(
            f"{flag} {text!r}: no layout {layout!r}; there are {', '.join(sorted(READERS))}"
        )
    generic = {".txt": "mvss_txt", ".json": "benco_json"}.get(Path(path).suffix.lower(), "folder")
    return name, known.get(_plain(layout or name), generic), Path(path)


def _plain(name: str) -> str:
    plain = "".join(c for c in name.lower() if c.isalnum())
    return re.sub(r"^casiav?([12])0?$", r"casiav\1", plain)  # CASIA2, CASIA_v2.0 and the like
