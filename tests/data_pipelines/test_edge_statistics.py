"""The four regions are what they say, and the statistics are SciPy's."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from data_pipelines import edge_statistics as es
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import Mask
from sapl_jax.errors import UserError
from tests.data_pipelines.picture_trees import write_picture


def _scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weak texture, an authentic bright square at the left, a sharper tampered one at the right."""
    rng = np.random.default_rng(seed)
    grey = 100 + 2 * rng.standard_normal((120, 160))
    grey[30:80, 20:60] += 60
    grey[40:90, 100:150] += 120
    mask = np.zeros((120, 160), bool)
    mask[40:90, 100:150] = True
    rgb = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return rgb, mask


def test_regions_are_disjoint_and_where_they_should_be() -> None:
    rgb, mask = _scene()
    found = es.regions(rgb, mask)
    assert found.sum(0).max() == 1
    tampered_edge, authentic_edge, tampered, authentic = found
    assert tampered_edge[40, 120] and not tampered_edge[65, 125] and not tampered_edge[:, :90].any()
    assert authentic_edge[30, 40] and not authentic_edge[:, 90:].any()
    assert tampered[65, 125] and not (tampered & ~mask).any()
    assert authentic[10, 10] and not (authentic & mask).any()


def test_local_statistics_are_scipys_of_each_window() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    rgb[..., 1] = rgb[..., 2] = rgb[..., 0]
    found = es.local_statistics(rgb)
    for y, x in ((10, 12), (20, 30)):
        window = rgb[y - 3 : y + 4, x - 3 : x + 4, 0].astype(float).ravel()
        expected = [window.var(), stats.skew(window), stats.kurtosis(window)]
        np.testing.assert_allclose(found[[0, 2, 3], y, x], expected, rtol=1e-6)


def test_gradient_of_a_ramp_is_its_slope_times_sobels_weight() -> None:
    ramp = np.repeat(np.tile(np.arange(0, 200, 4, dtype=np.uint8), (20, 1))[..., None], 3, axis=2)
    assert es.local_statistics(ramp)[1, 10, 20] == pytest.approx(8 * 4)


def test_flat_windows_have_no_shape() -> None:
    found = es.local_statistics(np.full((20, 20, 3), 90, np.uint8))
    assert (found[0] == 0).all() and np.isnan(found[2:]).all()


def _write(root: Path, count: int) -> None:
    for number in range(count):
        rgb, mask = _scene(number)
        write_picture(root / f"Tp/{number}.png", rgb)
        write_picture(root / f"Gt/{number}_gt.png", mask.astype(np.uint8) * 255)


def _run(monkeypatch, root: Path, output: Path, *more: str, dataset: str = "folder") -> None:
    flags = ["--dataset", dataset, "--root", str(root), "--output", str(output), *more]
    monkeypatch.setattr(sys, "argv", ["edge_statistics", *flags])
    es.main()


def test_the_command_finds_the_sharper_tampered_edges(monkeypatch, capsys, tmp_path) -> None:
    _write(tmp_path, 3)
    (tmp_path / "Tp/broken.png").write_bytes(b"nonsense")
    write_picture(tmp_path / "Gt/broken_gt.png", np.zeros((9, 9), np.uint8))
    _run(monkeypatch, tmp_path, tmp_path / "out")
    written = json.loads((tmp_path / "out/edge_statistics.json").read_text())
    assert written["pictures"] == 3 and "broken.png" in written["left_out"][0]
    variance = written["statistics"]["local variance"]
    assert variance["tampered edges"]["median"] > 2 * variance["authentic edges"]["median"]
    assert variance["authentic interior"]["median"] == pytest.approx(4, rel=0.3)
    assert variance["tampered edges above authentic edges"]["share"] == 1
    assert (tmp_path / "out/edge_statistics.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "tampered edges" in out and "on CASIA v1" in out


def test_outlines_count_as_masks(monkeypatch, tmp_path) -> None:
    write_picture(tmp_path / "Val/a.png", _scene()[0])
    box = [100, 40, 149, 40, 149, 89, 100, 89]
    content = {
        "categories": [{"id": 1, "name": "Fake"}],
        "images": [{"id": 1, "file_name": "a.png", "height": 120, "width": 160}],
        "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [box]}],
    }
    (tmp_path / "Val_poly.json").write_text(json.dumps(content))
    _run(monkeypatch, tmp_path, tmp_path / "out", dataset="openforensics")
    written = json.loads((tmp_path / "out/edge_statistics.json").read_text())
    assert (written["pictures"], written["left_out"]) == (1, [])


def test_a_set_without_masks_is_refused(monkeypatch, tmp_path) -> None:
    write_picture(tmp_path / "Tp/a.png", _scene()[0])
    with pytest.raises(UserError, match="no tampered picture has a mask"):
        _run(monkeypatch, tmp_path, tmp_path / "out")


def test_a_mask_is_what_is_above_127(monkeypatch) -> None:
    rgb, mask = _scene()
    sample = Sample("a", Path("a.png"), TAMPERED, Path("a_gt.png"))
    grey = np.where(mask, 255, 100).astype(np.uint8)  # 100 is not tampered
    monkeypatch.setattr(es, "read_image", lambda _: rgb)
    monkeypatch.setattr(es, "load_mask", lambda *_: Mask(grey))
    means, reasons = es.measure_all([sample])
    np.testing.assert_array_equal(means, [es.measure_picture(rgb, mask)])
    assert reasons == []


def test_summary_names_quartiles_in_order_and_compares_the_edges() -> None:
    means = np.zeros((5, 4, 4))
    means[:, 0] = np.arange(5)[:, None]
    means[:, 1] = 2.5
    row = es.summarise(means)["local variance"]
    assert row["tampered edges"] == {"mean": 2, "quartile_1": 1, "median": 2, "quartile_3": 3}
    assert row["tampered edges above authentic edges"]["share"] == pytest.approx(0.4)
