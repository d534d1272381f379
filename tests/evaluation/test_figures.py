"""Figures show what was measured, galleries what was seen, edge patches their two kinds."""

import numpy as np

from data_pipelines.readers import read_dataset
from sapl_jax.evaluation import figures, report
from sapl_jax.evaluation.evaluator import SIDE, Loaded, Shown
from sapl_jax.evaluation.perturbations import SWEEPS
from sapl_jax.evaluation.protocols import PROTOCOLS
from sapl_jax.evaluation.session import Method, run
from tests.evaluation.red_pictures import RedDetector, picture, write_rgb

PNG = b"\x89PNG"


class _FeatureDetector(RedDetector):
    """Edge features: one direction for authentic pictures, another for tampered ones."""

    def edge_features(self, images, labels):
        rng = np.random.default_rng(0)
        vectors = np.zeros((len(images), 2, 8, 4), np.float32)
        for i, label in enumerate(labels):
            vectors[i, 1, :, label] = 1
        vectors += 0.05 * rng.standard_normal(vectors.shape)
        usable = np.ones((len(images), 8), bool)
        usable[:, 7] = False
        return vectors, usable


def test_edge_patches_of_two_kinds_are_two_clusters(folder) -> None:
    found = report.edge_patch_embedding(_FeatureDetector(), read_dataset("folder", folder))
    points, tampered = found
    assert len(points) == 5 * 7 and tampered.sum() == 3 * 7
    centres = [points[tampered == kind].mean(0) for kind in (False, True)]
    nearest = np.linalg.norm(points[:, None] - np.array(centres)[None], axis=-1).argmin(1)
    assert (nearest == tampered).all()
    again = report.edge_patch_embedding(_FeatureDetector(), read_dataset("folder", folder))
    np.testing.assert_array_equal(points, again[0])
    assert figures.embedding(*found, "m").png[:4] == PNG


def test_the_report_shows_edge_patches_of_the_detector_that_gives_them(folder, tmp_path) -> None:
    listings, detector = [("m", read_dataset("folder", folder))], _FeatureDetector()
    session = run([Method("red", detector, {})], listings, PROTOCOLS["sapl"])
    report.write(session, tmp_path, listings)
    assert (tmp_path / "figures" / "tsne_m.png").read_bytes()[:4] == PNG
    assert "Edge-patch features" in (tmp_path / "report.md").read_text()


def test_edge_patches_of_one_class_are_not_embedded(tmp_path) -> None:
    write_rgb(tmp_path / "Tp" / "a.png", picture(3))
    listing = read_dataset("folder", tmp_path)
    assert report.edge_patch_embedding(_FeatureDetector(), listing) is None


def test_gallery_pictures_are_kept_small() -> None:
    large = np.zeros((3000, 1500, 3), np.uint8)
    for image, size in ((large, (SIDE, SIDE // 2)), (large[:30, :20], (30, 20))):
        (found,) = RedDetector().analyse([image])
        shown = Shown.of(Loaded(None, image, image[..., 0], [], ""), found)
        assert [part.shape[:2] for part in shown] == [size] * 3


def test_many_methods_take_several_galleries(folder) -> None:
    methods = [Method(f"m{n}", RedDetector(), {}) for n in range(4)]
    listings = [("a", read_dataset("folder", folder))]
    session = run(methods, listings, PROTOCOLS["sapl"])
    found = figures.galleries(session)
    assert [picture.name for picture in found] == ["gallery_a", "gallery_a.2"]
    widths = [int.from_bytes(picture.png[16:20]) for picture in found]
    assert widths[0] > 1.7 * widths[1]


def test_figures_show_the_numbers_of_the_results(monkeypatch, folder) -> None:
    kept = {}
    monkeypatch.setattr(figures, "drawn", lambda name, figure, _: kept.setdefault(name, figure))
    methods, listings = [Method("red", RedDetector(), {})], [("m", read_dataset("folder", folder))]
    session = run(methods, listings, PROTOCOLS["sapl"], sweeps=[SWEEPS["blur"]])
    (result,) = session.main
    figures.bars(session)
    panels = {axis.get_title(): axis for axis in kept["measures"].axes}
    ((line, _, (bar,)),) = panels["P-F1, m"].containers
    assert line.get_xdata() == result.summary["p_f1"]
    np.testing.assert_allclose(bar.get_segments()[0][:, 0], result.intervals["p_f1"])
    figures.roc_curves(session)
    (axis,) = kept["roc"].axes
    assert axis.lines[1].get_xydata()[1].tolist() == [0, 1]  # all found, no false alarm
    figures.robustness_curves(session)
    panels = {axis.get_title(): axis for axis in kept["robustness_blur"].axes}
    ((line, _, _),) = panels[f"P-F1, {SWEEPS['blur'].title}"].containers
    values = [point.summary["p_f1"] for _, point in session.sweeps["m"]["blur"]]
    np.testing.assert_allclose(line.get_ydata(), values)
    figures.reliability_curves(session)
    (axis,) = kept["reliability"].axes
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [[0, 0], [230 / 255, 1]])


def test_edge_patches_of_tampered_pictures_have_their_colour(monkeypatch) -> None:
    monkeypatch.setattr(figures, "drawn", lambda _, figure, __: figure)
    points = np.float32([[0, 0], [1, 2], [3, 4]])
    (axis,) = figures.embedding(points, np.array([False, True, True]), "m").axes
    shown = {part.get_label(): part.get_offsets().tolist() for part in axis.collections}
    assert shown == {"authentic edges": [[0, 0]], "manipulated edges": [[1, 2], [3, 4]]}


def test_a_gallery_shows_mask_map_and_what_is_above_a_half(monkeypatch, folder) -> None:
    tables = []
    monkeypatch.setattr(figures, "pictures", lambda _, rows, __: tables.append(rows) or [])
    methods, listings = [Method("red", RedDetector(), {})], [("m", read_dataset("folder", folder))]
    figures.galleries(run(methods, listings, PROTOCOLS["sapl"], gallery_size=1))
    ((row,),) = tables
    shown = {title: panel.pixels for title, panel in row.items()}
    np.testing.assert_array_equal(shown["picture"], picture(5))  # a.png, which has a mask
    np.testing.assert_array_equal(shown["mask"] > 0, np.arange(40)[None].repeat(20, 0) < 10)
    np.testing.assert_array_equal(shown["red: > 0.5"], shown["picture"][..., 0] > 127)
    assert row["red: > 0.5"].note == "F1 .667"
