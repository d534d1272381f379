"""Trivial predictors, training curves, best and worst pictures: the parts of the demo's report."""

import json

import numpy as np
import pytest

from configs import photographs
from data_pipelines.generator.folder import generate
from data_pipelines.preprocess import Geometry
from data_pipelines.readers import read_dataset
from data_pipelines.soft_edges import DEFAULT_OPTIONS, soft_edge_map
from sapl_jax.demo.outcome import (
    best_and_worst,
    case,
    on_photographs,
    read_metrics,
    training_curves,
)
from sapl_jax.evaluation import figures, protocols
from sapl_jax.evaluation.baselines import TRIVIAL
from sapl_jax.evaluation.evaluator import evaluate_dataset

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "set"
    return read_dataset("folder", generate(folder, 12, seed=4, size=64, workers=1))


def evaluate(name, listing):
    return evaluate_dataset(TRIVIAL[name], listing, protocols.PROTOCOLS["sapl"], batch_size=4)


def test_everything_tampered_scores_the_masks_share(listing) -> None:
    result = evaluate("everything tampered", listing)
    shares = []
    for sample in listing.samples:
        if sample.mask is not None:
            from data_pipelines.images import read_mask

            shares.append(float((read_mask(sample.mask) > 127).mean()))
    expected = np.mean([2 * share / (1 + share) for share in shares])
    assert result.summary["p_f1"] == pytest.approx(expected, abs=1e-6)
    assert result.summary["i_auc"] == 0.5


def test_random_guesses_repeat_and_differ_between_pictures() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2))
    a, b, again = TRIVIAL["random"].analyse([first, second, first])
    assert a.heat_map.shape == (40, 50) and np.array_equal(a.heat_map, again.heat_map)
    assert a.score == again.score != b.score


def test_the_edge_map_is_that_of_the_method(listing) -> None:
    from data_pipelines.images import read_image

    image = read_image(listing.samples[0].image)
    (found,) = TRIVIAL["edge map alone"].analyse([image])
    np.testing.assert_array_equal(found.heat_map, soft_edge_map(image, DEFAULT_OPTIONS))


def test_best_pictures_have_the_highest_f1_and_worst_the_lowest(listing) -> None:
    result = evaluate("edge map alone", listing)
    best, worst = best_and_worst(TRIVIAL["edge map alone"], listing, result, 2).values()
    f1 = sorted(r.scores.p_f1 for r in result.records if r.scores.p_f1 is not None)
    assert [record.scores.p_f1 for record in best] == f1[::-1][:2]
    assert [record.scores.p_f1 for record in worst] == f1[:2]
    rows = [case(record, DEFAULT_OPTIONS, 0.5) for record in best]
    assert figures.pictures("best", rows, "")[0].png.startswith(PNG)
    assert figures.pictures("best", [], "") == []


def test_photographs_are_forged_for_the_report_with_their_truth() -> None:
    class Edges:
        """The edge map as a detector, at the size of the demo's pictures."""

        config, geometry, edge_options = photographs.get_config(), Geometry(96, 16), DEFAULT_OPTIONS
        analyse = staticmethod(TRIVIAL["edge map alone"].analyse)

    rows = on_photographs(Edges())
    assert set(rows) == {"authentic", "splicing", "copy-move", "removal"}
    for kind, row in rows.items():
        picture, truth = row["picture"].pixels, row["ground truth"].pixels
        assert picture.shape == (*truth.shape, 3) and max(truth.shape) == 96
        assert truth.any() == (kind != "authentic")
        assert (row["mask"].note == "F1 -") == (kind == "authentic")


def test_curves_are_read(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": n, "loss": 1 / n, "loss_cls": 1 / n}) for n in range(1, 40)]
    lines += [json.dumps({"step": 39, "val_i_auc": 0.7})]
    path.write_text("\n".join(lines))
    metrics = read_metrics(path)
    assert len(metrics["loss"][0]) == 39 and metrics["val_i_auc"][1].tolist() == [0.7]
    assert training_curves(metrics)[0].png.startswith(PNG)
    assert training_curves({}) == []
