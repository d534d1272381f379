"""List and CSV files from strangers: read or refused, never a crash, nothing written elsewhere."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import noise, write_picture

settings.register_profile(
    "files",
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
FILES = settings.get_profile("files")
ODD_NAMES = [
    "a.png",
    "../outside.png",
    "/etc/passwd",
    "../../../../../../etc/passwd",
    "a.png\0.txt",
    "x" * 5000,
    "$(touch ran)",
    "; touch ran",
    "~/a.png",
    "",
    ".",
    "..",
    "a.png/b",
    "\udcff",
]
names = st.sampled_from(ODD_NAMES) | st.text(max_size=30)
labels = st.sampled_from(["0", "1", "-1", "2", "\u00b2", "9" * 5000, "1.0", "nan", ""])


@pytest.fixture
def folder(tmp_path):
    """A folder with one picture, and one picture outside it."""
    write_picture(tmp_path / "set" / "a.png", noise(0, 20, 20))
    write_picture(tmp_path / "outside.png", noise(1, 20, 20))
    return tmp_path / "set"


def read(name, path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    path.write_bytes(data)
    before = sorted(path.parent.parent.rglob("*"))
    try:
        return read_dataset(name, path if name != "nist16" else path.parents[2])
    except UserError as error:
        assert str(error)
        return None
    finally:
        assert sorted(path.parent.parent.rglob("*")) == before


@FILES
@given(rows=st.lists(st.tuples(names, names | st.just("None"), labels), max_size=4))
@example(rows=[("x" * 5000, "None", "0"), ("a.png", "None", "0")])
@example(rows=[("a.png\0", "None", "0")])
@example(rows=[("a.png", "None", "\u00b2")])
@example(rows=[("a.png", "None", "9" * 5000)])
def test_any_mvss_list_is_read_or_refused(folder, rows):
    text = "\n".join(" ".join(row) for row in rows)
    listing = read("mvss_txt", folder / "list.txt", text)
    assert listing is None or all(sample.image.is_file() for sample in listing.samples)


@FILES
@given(rows=st.lists(st.lists(names | st.just("Negative"), min_size=2, max_size=2), max_size=4))
@example(rows=[["x" * 5000, "Negative"], ["a.png", "x" * 5000]])
@example(rows=[["a.png\0", "Negative"]])
def test_any_benco_list_is_read_or_refused(folder, rows):
    listing = read("benco_json", folder / "list.json", json.dumps(rows))
    assert listing is None or all(sample.image.is_file() for sample in listing.samples)


@FILES
@given(content=st.binary(max_size=200))
@example(content=b"[" * 100_000)
@example(content=b'{"a": 1}')
def test_any_bytes_are_read_or_refused_as_a_list(folder, content):
    for name, file in (("benco_json", "list.json"), ("mvss_txt", "list.txt")):
        read(name, folder / file, content)


@FILES
@given(
    rows=st.lists(st.tuples(st.sampled_from(["Y", "N", ""]), names, names), max_size=4),
    extra=st.binary(max_size=40),
)
@example(rows=[("Y", "x" * 5000, "m.png")], extra=b"")
@example(rows=[("Y", "a.png", "m.png")], extra=b"Y|" + b"x" * 200_000 + b"|m\n")
@example(rows=[("Y", "/etc/passwd", "/etc/passwd")], extra=b"")
@example(rows=[], extra=b"Y|\0|\0\n")
@example(rows=[], extra=b"Y\n")
def test_any_nist_table_is_read_or_refused(folder, rows, extra):
    header = "IsTarget|ProbeFileName|ProbeMaskFileName\n"
    text = header + "".join("|".join(row) + "\n" for row in rows)
    table = folder / "reference" / "manipulation" / "NC2016-manipulation-ref.csv"
    read("nist16", table, text.encode("utf-8", "surrogateescape") + extra)


def test_a_list_may_name_pictures_anywhere_and_says_where_they_are(folder):
    """Lists name files by path, so reading outside the folder is meant; writing there is not."""
    listing = read("mvss_txt", folder / "list.txt", "../outside.png None 1\na.png None 0\n")
    assert sorted(sample.name for sample in listing.samples) == ["../outside.png", "a.png"]
