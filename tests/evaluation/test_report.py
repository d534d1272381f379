"""The command writes whole, self-contained reports, and the paper's table stands beside ours."""

import csv
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.readers import read_dataset
from sapl_jax import evaluate
from sapl_jax.errors import UserError
from sapl_jax.evaluation import report, results
from sapl_jax.evaluation.baselines import CLASSICS, TRIVIAL
from sapl_jax.evaluation.document import Section, Table, to_html, to_markdown
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.protocols import PROTOCOLS
from sapl_jax.evaluation.session import Method, run
from tests.evaluation.red_pictures import RedDetector, picture, write_grey, write_rgb

PNG = b"\x89PNG"


def _run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    evaluate.main()


def _columbia(root: Path) -> Path:
    write_rgb(root / "4cam_auth" / "a.tif", picture(0))
    write_rgb(root / "4cam_splc" / "t.tif", picture(5))
    mask = np.zeros((20, 40), np.uint8)
    mask[:, :10] = 255
    write_grey(root / "4cam_splc" / "edgemask" / "t_edgemask.png", mask)
    return root


def test_the_command_writes_results_and_reports_for_classics(
    monkeypatch, capsys, folder, tmp_path
) -> None:
    (folder / "Tp" / "broken.png").write_bytes(b"nonsense")
    out = tmp_path / "out"
    _run(
        monkeypatch,
        *("--method", "noi1", "--method", "cfa1", "--dataset", f"mine={folder}"),
        *("--robustness", "jpeg", "--output", out, "--batch-size", 2),
    )
    written = json.loads((out / "results.json").read_text())
    entry = written["datasets"]["mine"]
    assert (entry["images"], entry["skipped"], entry["layout"]) == (5, 1, "folder")
    assert len(entry["data_sha256"]) == 64
    assert [point["level"] for point in entry["robustness"]["jpeg"]] == [
        *(None, 100, 90, 80, 70, 60, 50)
    ]
    assert entry["robustness"]["jpeg"][0]["p_f1"] == entry["p_f1"]
    assert set(written["peers"]) == {"cfa1", *TRIVIAL}
    assert written["peers"]["everything tampered"]["datasets"]["mine"]["p_f1"] == pytest.approx(0.4)
    low, high = entry["intervals"]["p_f1_best"]
    assert low <= entry["p_f1_best"] <= high and low < high
    pairs = {(p["first"], p["second"]): p["measures"] for p in written["comparisons"]["mine"]}
    assert len(pairs) == 10 and 0 <= pairs["noi1", "cfa1"]["p_f1_best"]["ahead"] <= 1
    assert written["peers"]["cfa1"]["datasets"]["mine"]["images"] == 5
    rows = list(csv.DictReader((out / "mine.noi1.csv").open()))
    assert len(rows) == 5 and float(np.mean([float(r["p_f1"]) for r in rows if r["p_f1"]])) == (
        pytest.approx(entry["p_f1"])
    )
    page = (out / "report.html").read_text()
    assert "broken.png" in page and page.count("data:image/png;base64,") == 6
    markdown = (out / "report.md").read_text()
    linked = re.findall(r"\]\(<(figures/[^>]+)>\)", markdown)
    assert len(linked) == 6 and all((out / name).read_bytes()[:4] == PNG for name in linked)
    printed = capsys.readouterr()
    assert re.search(r"mine +cfa1 .*\d \[\.\d{3}, \.\d{3}\]\N{ALMOST EQUAL TO}", printed.out)
    assert f"[{results.number(low)}, {results.number(high)}]" in page
    assert "noi1" in printed.out and "cfa1" in printed.out and "broken.png" in printed.err


def test_hostile_names_do_no_harm_to_a_terminal(monkeypatch, capsys, folder, tmp_path) -> None:
    (folder / "Tp" / "bad\x1b[2J.png").write_bytes(b"no picture")
    maps = tmp_path / "m\x1b[2J"
    write_grey(maps / "x.png", np.eye(4, dtype=np.uint8))
    flags = ("--method", "noi1", "--maps", f"Tool={maps}", "--no-report")
    _run(monkeypatch, *flags, "--dataset", f"set={folder}", "--output", tmp_path / "out")
    shown = capsys.readouterr().err
    assert "skipped" in shown and "bad\\x1b[2J.png: " in shown and "\x1b" not in shown


def test_a_page_loads_nothing_from_elsewhere_and_escapes_names() -> None:
    page = to_html("<b>", [Section("a & b", ["<script>", Table(["x", "y"], [["<i>", "1"]])])])
    assert "<script>" not in page and "<i>" not in page and "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_on_a_page_an_interval_stands_below_its_number_and_names_stay_as_they_are() -> None:
    table = Table(["x", "y"], [["a [b]", ".5 / .9 [.4, .6] / [.8, 1]"]])
    page = to_html("t", [Section("s", [table])])
    assert ">a [b]</td>" in page and ">.5 / .9<br>[.4, .6] / [.8, 1]</td>" in page


def test_markdown_keeps_underscores_and_stresses_our_rows() -> None:
    table = Table(["set", "n"], [["a_b_c", "1"], ["ours", "2"]], frozenset({1}))
    text = to_markdown("t", [Section("s", [table])])
    assert "| a\\_b\\_c | 1 |" in text and "| **ours** | **2** |" in text


def test_table_1_has_our_row_and_says_that_a_copy_is_incomplete(tmp_path, folder) -> None:
    root = _columbia(tmp_path / "columbia")
    listings = [("Columbia", read_dataset("columbia", root)), ("m", read_dataset("folder", folder))]
    methods = [Method("red", RedDetector(), {})]
    session = run(methods, listings, PROTOCOLS["sapl"])
    parts = report.table_1(session)
    table = next(part for part in parts if isinstance(part, Table))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["SAPL (paper)"][1] == ".432 / .999"
    assert rows["WSCL (MIL-FCN)"][4] == ".110 / -"
    ours = ".667 / 1.000 [.667, .667] / [1.000, 1.000]"
    assert rows["red (here)"] == ["-", ours, "-", "-", "-", "-"]
    assert any("instead of 183 and 180" in str(part) for part in parts)
    # A mean over one of five sets would not compare, and P-F1 by other rules neither.
    other = run(methods, listings, PROTOCOLS["mvss"])
    assert any("do not compare" in str(part) for part in report.table_1(other))


def test_without_a_published_test_set_there_is_no_table_1(folder) -> None:
    listings = [("m", read_dataset("folder", folder))]
    session = run([Method("red", RedDetector(), {})], listings, PROTOCOLS["sapl"])
    assert report.table_1(session) == []


def test_one_class_without_masks_still_gives_a_report(tmp_path) -> None:
    write_rgb(tmp_path / "set" / "Tp" / "a.png", picture(3))
    listings = [("m", read_dataset("folder", tmp_path / "set"))]
    session = run([Method("red", RedDetector(), {})], listings, PROTOCOLS["sapl"])
    report.write(session, tmp_path / "out")
    headings = re.findall(r"<h2>(.*?)</h2>", (tmp_path / "out" / "report.html").read_text())
    assert "ROC curves" not in headings and "Results" in headings and "Provenance" in headings


def test_a_skipped_name_that_is_not_utf8_is_reported_escaped(folder, tmp_path) -> None:
    listing = read_dataset("folder", folder)
    listing = dataclasses.replace(listing, skipped=[(Path("bad\udcff.png"), "not UTF-8")])
    methods = [Method("red", RedDetector(), {})]
    session = run(methods, [("m", listing)], PROTOCOLS["sapl"])
    report.write(session, tmp_path / "out")
    for name in ("report.html", "report.md"):
        assert "bad\\udcff.png" in (tmp_path / "out" / name).read_text().replace("\\\\", "\\")


def test_training_pictures_are_left_out_on_request(monkeypatch, capsys, folder, tmp_path) -> None:
    training = tmp_path / "training"
    write_rgb(training / "Au" / "same.png", picture(0))
    out = tmp_path / "out"
    _run(
        monkeypatch,
        *("--method", "noi1", "--dataset", f"m={folder}", "--exclude", f"folder={training}"),
        *("--output", out, "--no-report"),
    )
    entry = json.loads((out / "results.json").read_text())["datasets"]["m"]
    assert (entry["authentic"], entry["tampered"], entry["skipped"]) == (0, 3, 2)
    assert "m: 2 of 5 pictures left out by --exclude" in capsys.readouterr().err
    assert not (out / "report.html").exists()
    with pytest.raises(UserError, match="has results.json already"):
        _run(monkeypatch, "--method", "noi1", "--dataset", f"m={folder}", "--output", out)


def test_an_output_that_is_a_file_is_refused_before_any_work(monkeypatch, folder, tmp_path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        _run(
            monkeypatch,
            *("--method", "noi1", "--dataset", f"m={folder}", "--output", tmp_path / "out"),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --checkpoint"),
        (("--method", "noi1", "--batch-size", "0"), "batch-size is 0"),
        (("--method", "noi1", "--tile", "4"), "tile is 4; expected 32"),
    ],
)
def test_wrong_flags_are_clear_errors(monkeypatch, folder, tmp_path, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        _run(monkeypatch, "--dataset", f"m={folder}", "--output", tmp_path / "out", *arguments)


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        (("--protocol", "cvpr"), PROTOCOLS),
        (("--robustness", "rain"), SWEEPS),
        (("--method", "x"), CLASSICS),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(monkeypatch, capsys, flags, known) -> None:
    with pytest.raises(SystemExit, match="2"):
        _run(monkeypatch, "--dataset", "a=b", "--output", "c", *flags)
    refusal = capsys.readouterr().err.splitlines()[-1]
    assert all(name in refusal for name in known)


def test_noise_means_variance_as_in_imdl_benco() -> None:
    flags = ["--dataset", "a=b", "--output", "c", "--robustness"]
    assert evaluate.parse_arguments([*flags, "noise", "jpeg"]).robustness == [*("noise", "jpeg")]


def test_numbers_are_as_the_papers_print_them() -> None:
    found = [results.number(value) for value in (0.9124, 1.0, -0.1346, -1.25, 10.0, None)]
    assert found == [".912", "1.000", "-.135", "-1.250", "10.000", "-"]


def test_a_row_of_the_table_of_pictures_has_height_before_width(folder, tmp_path) -> None:
    methods, listings = [Method("red", RedDetector(), {})], [("m", read_dataset("folder", folder))]
    (result,) = run(methods, listings, PROTOCOLS["sapl"]).main
    results.write_images_csv(tmp_path / "m.csv", result)
    row = next(csv.DictReader((tmp_path / "m.csv").open()))
    assert (row["height"], row["width"]) == ("20", "40")
