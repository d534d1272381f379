"""Maps of other tools: found by name, checked, scored as a model's are, or left out by name."""

import io
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipelines.readers import read_dataset
from sapl_jax import evaluate
from sapl_jax.errors import UserError
from sapl_jax.evaluation.evaluator import evaluate_dataset
from sapl_jax.evaluation.map_folders import MapFolder, read_map
from sapl_jax.evaluation.protocols import PROTOCOLS
from tests.evaluation.red_pictures import RedDetector, write_grey

NAMES = ("Au/x", "Au/y", "Tp/a", "Tp/b", "Tp/c")
RED = np.float32(230 / 255)


def _truth(root: Path, name: str) -> np.ndarray:
    return cv2.imread(str(root / f"{name}.png"))[..., 2] / np.float32(255)


def _write(path: Path, values: np.ndarray, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, map=values, **more) if path.suffix == ".npz" else np.save(path, values)
    return path


def _evaluate(maps: Path, root: Path, protocol: str = "sapl"):
    listing = read_dataset("folder", root)
    return evaluate_dataset(MapFolder(maps), listing, PROTOCOLS[protocol])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tool_s_maps_measure_what_the_tool_itself_does(folder, tmp_path, protocol) -> None:
    for name in NAMES:
        truth = _truth(folder, name)
        _write(tmp_path / "maps" / f"{name}.png.npz", truth, score=truth.max(), conf=truth)
    listing = read_dataset("folder", folder)
    own = evaluate_dataset(RedDetector(), listing, PROTOCOLS[protocol])
    found = _evaluate(tmp_path / "maps", folder, protocol)
    assert found.summary | {"noted": 1} == own.summary and found.intervals == own.intervals


def test_every_format_gives_the_same_map(tmp_path) -> None:
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    wanted = levels / np.float32(255)
    cv2.imwrite(str(tmp_path / "8.png"), levels)
    cv2.imwrite(str(tmp_path / "rgb.png"), np.dstack([levels] * 3))
    cv2.imwrite(str(tmp_path / "16.png"), levels.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "float.tif"), wanted)
    _write(tmp_path / "a.npy", wanted[None].astype(np.float64))
    _write(tmp_path / "b.npz", wanted)
    for path in tmp_path.iterdir():
        heat_map, score, notes = read_map(path)
        np.testing.assert_allclose(heat_map, wanted, atol=1e-6, err_msg=path.name)
        assert heat_map.dtype == np.float32 and score is None and not notes


def test_names_of_windows_flat_folders_and_tables_of_scores(folder, tmp_path) -> None:
    maps = tmp_path / "maps"
    for name in ("TP\\A.npy", "au\\x.npy", "y.npy", "B.png.npy", "set/folder/Tp/c.npy"):
        stem = name.replace("\\", "/").split("/")[-1].split(".")[0].lower()
        _write(maps / name, _truth(folder, next(n for n in NAMES if n.endswith(stem))))
    (maps / "scores.csv").write_text("name,score\nAu\\x.png,.1\ny,.2\nTp/a.png,.9\nb,.8\nc,.7\n")
    found = _evaluate(maps, folder)
    assert found.summary["images"] == 5 and found.summary["i_auc"] == 1.0
    (maps / "scores.csv").write_text("name,score\nAu/x.png,.1\n")
    found = _evaluate(maps, folder)
    assert found.summary["i_auc"] is found.summary["i_f1"] is None
    assert found.summary["p_f1"] == pytest.approx(5 / 6) and "i_auc" not in found.intervals
    assert any("4 of 5 pictures have no score" in note for _, note in found.notes)


def test_another_size_is_resized_and_noted(folder, tmp_path) -> None:
    for name in NAMES:
        _write(
            tmp_path / "m" / f"{name}.npy", np.repeat(np.repeat(_truth(folder, name), 3, 0), 3, 1)
        )
    found = _evaluate(tmp_path / "m", folder)
    assert found.summary["p_f1"] == pytest.approx(5 / 6)
    assert sum("is 120x60, resized to 40x20" in note for _, note in found.notes) == 5


def test_bad_maps_are_left_out_by_name_and_the_run_goes_on(folder, tmp_path) -> None:
    maps, good = tmp_path / "m", np.full((20, 40), 0.25, np.float32)
    bad = {
        "x": (good.T, "transposed"),
        "y": (np.where(np.eye(20, 40) > 0, np.nan, good), "20 values that are NaN"),
        "a": (good * 1000, "values from 250 to 250, expected 0"),
    }
    for stem, (values, _) in bad.items():
        _write(maps / f"{stem}.npy", values)
    _write(maps / "b.npy", good)
    _write(maps / "c.npy", good)
    _write(maps / "c.npz", good)
    _write(maps / "nobody.npy", good)
    found = _evaluate(maps, folder)
    reasons = {path.stem: reason for path, reason in found.skipped}
    for stem, (_, reason) in bad.items():
        assert f"{stem}.npy" in reasons[stem] and reason in reasons[stem]
    assert "c.npy, c.npz" in reasons["c"] and found.summary["images"] == 1
    said = " ".join(note for _, note in found.notes)
    assert "no picture's (1): nobody.npy" in said and "is 0.25 everywhere" in said


def test_a_map_that_two_pictures_could_claim_is_given_to_none(folder, tmp_path) -> None:
    (folder / "Au" / "x.png").rename(folder / "Au" / "a.png")
    for stem in ("a", "b"):
        _write(tmp_path / "m" / f"{stem}.npy", np.zeros((20, 40)))
    reasons = {str(path): reason for path, reason in _evaluate(tmp_path / "m", folder).skipped}
    assert all("several pictures" in reasons[str(folder / k / "a.png")] for k in ("Au", "Tp"))


def test_two_sets_that_share_a_folder_get_their_own_maps_and_scores_only(folder, tmp_path) -> None:
    maps, listing = tmp_path / "m", read_dataset("folder", folder)
    for name in ("one/Tp/a", "one/Tp/b", "two/Tp/b", "two/Au/x"):
        _write(maps / f"{name}.npy", _truth(folder, name[4:]))
    for table, scores in (
        ("one/Tp/a.png,.9\none/Tp/b.png,.8\n", {"b": None, "x": None}),
        ("two/Tp/b.png,.7\none/Tp/b.png,.8\n", {"b": 0.7, "x": None}),
        ("b,.7\nB.png,.6\nx,.1\nx,.2\n", {"b": 0.6, "x": None}),
    ):
        (maps / "scores.csv").write_text("name,score\n" + table)
        found = evaluate_dataset(MapFolder(maps), listing, PROTOCOLS["sapl"], label="two")
        given = {record.path.stem: record.scores.score for record in found.records}
        assert {k: None if np.isnan(score) else score for k, score in given.items()} == scores
        assert "no map" in {path.stem: reason for path, reason in found.skipped}["a"]
        assert not any("no picture's" in note for _, note in found.notes)


def test_a_set_without_a_folder_gets_nothing_of_another_set_of_the_run(folder, tmp_path) -> None:
    for name in NAMES:
        _write(tmp_path / "m" / "one" / f"{name}.npy", _truth(folder, name))
    listing = read_dataset("folder", folder)
    found = [MapFolder(tmp_path / "m", sets) for sets in (["two"], ["one", "two"])]
    options = {"listing": listing, "protocol": PROTOCOLS["sapl"], "label": "two"}
    assert evaluate_dataset(found[0], **options).summary["images"] == 5
    with pytest.raises(UserError, match="no map"):
        evaluate_dataset(found[1], **options)


def test_two_scores_of_one_name_leave_the_map_without_one(folder, tmp_path) -> None:
    for name in NAMES:
        _write(tmp_path / "m" / f"{name}.npy", _truth(folder, name))
    (tmp_path / "m" / "scores.csv").write_text("name,score\na,.1\na,.2\nb,.5\nb,.5\n")
    found = _evaluate(tmp_path / "m", folder)
    given = {record.path.stem: record.scores.score for record in found.records}
    assert len(given) == 5 and np.isnan(given["a"]) and given["b"] == 0.5


def _damaged(kind: str, place: int, bits: int) -> bytes:
    """A map as NumPy's file or in an archive, with bits of one byte turned."""
    file, values = io.BytesIO(), np.random.default_rng(0).random((20, 40))
    save = {"npy": np.save, "npz": np.savez, "deflated": np.savez_compressed}[kind]
    save(file, **({"arr": values} if kind == "npy" else {"map": values}))
    data = bytearray(file.getvalue())
    data[place] ^= bits
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.npy", b"nonsense", "not a readable"),
        ("a.npz", b"PK\x03\x04nonsense", "not a readable"),
        ("a.npy", _damaged("npy", 10, 1), "not a readable"),  # the header, as Python
        ("a.npz", _damaged("deflated", 57, 2), "not a readable"),  # the first block
        ("a.npz", _damaged("npz", -69, 0x80), "not a readable"),  # the way of compression
        ("a.npz", _damaged("npz", -67, 1), "not a readable"),  # whether it is encrypted
        ("a.npy", np.zeros((2, 2, 5)), "expected numbers"),
        ("a.npy", np.array([["x"]]), "expected numbers"),
        ("a.npy", np.zeros((0, 4)), "expected numbers"),
        ("a.png", b"nonsense", "not a JPEG"),
        ("a.png", np.dstack([np.eye(4), np.eye(4), 0 * np.eye(4)]) * 255, "colour"),
    ],
)
def test_files_that_hold_no_map_are_refused(tmp_path, name, data, reason) -> None:
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    elif path.suffix == ".png":
        cv2.imwrite(str(path), data.astype(np.uint8))
    else:
        np.save(path, data)
    with pytest.raises(UserError, match=reason) as refused:
        read_map(path)
    assert "pickle" not in str(refused.value)


def test_the_command_puts_maps_beside_methods_in_one_table(
    monkeypatch, capsys, folder, tmp_path
) -> None:
    for name in NAMES[1:]:
        write_grey(tmp_path / "m" / f"{name}.png", np.uint8(_truth(folder, name) * 255))
    write_grey(tmp_path / "none" / "other.png", np.eye(4, dtype=np.uint8) * 255)
    (tmp_path / "m" / os.fsdecode(b"caf\xe9.txt")).write_text("of a file system before UTF-8")
    arguments = ["--method", "noi1", "--maps", f"Tool={tmp_path / 'm'}", "--dataset", f"s={folder}"]
    arguments += ["--maps", f"Empty={tmp_path / 'none'}", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    evaluate.main()
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    tool = written["peers"]["Tool"]["datasets"]["s"]
    assert (tool["images"], tool["skipped"], tool["i_auc"]) == (4, 1, None)
    assert tool["p_f1"] == pytest.approx(5 / 6) and "no map" in tool["skipped_files"][0][1]
    assert written["unusable"][0][:2] == ["s", "Empty"]
    printed, page = capsys.readouterr(), (tmp_path / "out" / "report.html").read_text()
    assert "Tool" in printed.out and "Empty left out" in printed.err and "no map in" in printed.err
    assert "Empty: " in page and "no map in" in page


@pytest.mark.parametrize(
    "table", ["name;score\na;1\n", "name,score\na,\n", "name,score\n" + "x" * 200_000]
)
def test_a_table_that_holds_no_scores_is_refused(tmp_path, table) -> None:
    _write(tmp_path / "a.npy", np.eye(4))
    (tmp_path / "scores.csv").write_text(table)
    with pytest.raises(UserError, match="columns name and score"):
        MapFolder(tmp_path)


@pytest.mark.parametrize(
    "text", ["x", "=m", "x=", "random=m", "edge_map_alone=m", "x=/nowhere", "a/b=m"]
)
def test_wrong_map_flags_are_clear_errors(monkeypatch, folder, tmp_path, text) -> None:
    monkeypatch.chdir(tmp_path)
    write_grey(tmp_path / "m" / "a.png", np.eye(4, dtype=np.uint8))
    arguments = ["--maps", text, "--dataset", f"s={folder}", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(UserError, match="NAME=FOLDER|does not exist"):
        evaluate.main()
