"""The data sets that can be read, by name. A new one adds its function to READERS."""

from collections.abc import Callable
from pathlib import Path

from data_pipelines.au_tp_readers import read_casia_v2, read_folder
from data_pipelines.list_readers import read_benco_json, read_casia_v1plus, read_mvss_txt
from data_pipelines.listing import AUTHENTIC, LABEL_NAMES, TAMPERED, Listing, Sample
from data_pipelines.openforensics import read_openforensics
from data_pipelines.test_set_readers import (
    read_autosplice,
    read_casia_v1,
    read_cocoglide,
    read_columbia,
    read_comofod,
    read_coverage,
    read_dso1,
    read_imd2020,
    read_nist16,
)
from sapl_jax.errors import UserError

__all__ = ["AUTHENTIC", "LABEL_NAMES", "READERS", "TAMPERED", "Listing", "Sample", "read_dataset"]

READERS: dict[str, Callable[[str | Path], Listing]] = {
    "casia_v2": read_casia_v2,
    "folder": read_folder,
    "casia_v1": read_casia_v1,
    "casia_v1plus": read_casia_v1plus,
    "columbia": read_columbia,
    "coverage": read_coverage,
    "imd2020": read_imd2020,
    "nist16": read_nist16,
    "dso1": read_dso1,
    "cocoglide": read_cocoglide,
    "autosplice": read_autosplice,
    "openforensics": read_openforensics,
    "comofod": read_comofod,
    "mvss_txt": read_mvss_txt,
    "benco_json": read_benco_json,
}


def read_dataset(name: str, root: str | Path, *, both_classes: bool = False) -> Listing:
    """Lists the pictures of a data set; opens neither pictures nor masks.

    both_classes: demand authentic and tampered pictures, as training does; evaluation need not.
    Raises UserError for a name not in READERS, a root that is not a folder, holds no picture, or
    is not of the named layout.
    """
    if name not in READERS:
        raise UserError(f"no data set named {name!r}; choose one of: {', '.join(sorted(READERS))}")
    listing = READERS[name](root)
    if both_classes:
        listing.require_both_classes()
    return listing
