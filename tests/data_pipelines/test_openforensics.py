"""OpenForensics: labels and outlines from its annotations, or a clear refusal."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines.doctor import diagnose, examine
from data_pipelines.images import read_image
from data_pipelines.masks import load_mask
from data_pipelines.readers import read_dataset
from sapl_jax.errors import UserError
from sapl_jax.evaluation.evaluator import load_sample
from tests.data_pipelines.picture_trees import pairs, write_random

SQUARE = [8, 16, 8, 47, 39, 47, 39, 16]


def annotations(**changes: Any) -> dict[str, Any]:
    """Two pictures, one with a real and a fake face; the fake category is not the second one."""
    faces = [(0, 3, SQUARE), (1, 3, [0, 0, 0, 5, 5, 5]), (1, 9, SQUARE)]
    content = {
        "categories": [{"id": 9, "name": "Fake"}, {"id": 3, "name": "Real"}],
        "images": [
            {"id": n, "file_name": f"Images/Val/{name}.jpg", "height": 64, "width": 80}
            for n, name in enumerate(("a", "b", "gone", "empty"))
        ],
        "annotations": [
            {"image_id": image, "category_id": kind, "segmentation": [polygon]}
            for image, kind, polygon in faces
        ],
    }
    return content | changes


def openforensics(root: Path, content: Any) -> Path:
    for number, name in enumerate(("a", "b", "empty")):
        write_random(root / f"Val/{name}.jpg", number, (64, 80))
    (root / "Val_poly.json").write_text(json.dumps(content))
    return root


def test_openforensics_labels_by_category_name_and_draws_fake_faces_only(tmp_path: Path) -> None:
    listing = read_dataset("openforensics", openforensics(tmp_path, annotations()))
    assert pairs(listing) == {"Val/a.jpg": 0, "Val/b.jpg": "Val_poly.json"}
    assert [path.name for path, _ in listing.skipped] == ["gone.jpg", "empty.jpg"]
    loaded = load_sample(listing.samples[1])
    assert loaded.mask is not None and loaded.mask.shape == (64, 80)
    rows, columns = np.nonzero(loaded.mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 47, 8, 39)
    assert loaded.mask.sum() == 255 * 32 * 32
    listing = read_dataset("openforensics", tmp_path / "Val_poly.json")
    found = diagnose(listing, examine(listing))
    assert [finding.what for finding in found] == ["2 files are not used"]


def test_openforensics_outlines_follow_a_picture_that_was_made_smaller(tmp_path: Path) -> None:
    root = openforensics(tmp_path, annotations())
    half = cv2.resize(read_image(root / "Val/b.jpg"), (40, 32))
    (sample,) = [s for s in read_dataset("openforensics", root).samples if s.label]
    assert sample.mask is not None
    mask = load_mask(sample.mask, half, sample.mask_style)
    assert mask.note is not None and mask.grey.shape == (32, 40) and mask.grey[20, 10] == 255


@pytest.mark.parametrize(
    "changes",
    [
        {"categories": 3},
        {"images": [{"id": 1}]},
        {"annotations": [{"image_id": 1, "category_id": 9}]},
        {"annotations": [{"image_id": 1, "category_id": 9, "segmentation": [["a"] * 6]}]},
        {"images": [{"id": 1, "file_name": "a.jpg", "height": 1e400, "width": 3}]},
    ],
)
def test_openforensics_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    root = openforensics(tmp_path, annotations(**changes))
    with pytest.raises(UserError, match="not annotations of OpenForensics"):
        read_dataset("openforensics", root)


@pytest.mark.parametrize(
    ("height", "polygon"),
    [(64, [1, 2]), (64, [float("nan")] * 6), (64, "run-length"), (-64, SQUARE), (10**9, SQUARE)],
)
def test_openforensics_outlines_that_cannot_be_drawn_leave_a_picture_without_a_mask(
    tmp_path: Path, height: int, polygon: Any
) -> None:
    content = annotations(
        images=[{"id": 1, "file_name": "Images/Val/b.jpg", "height": height, "width": 80}],
        annotations=[
            {
                "image_id": 1,
                "category_id": 9,
                "segmentation": polygon if isinstance(polygon, str) else [polygon],
            }
        ],
    )
    (sample,) = read_dataset("openforensics", openforensics(tmp_path, content)).samples
    assert sample.label == 1 and load_sample(sample).mask is None


def test_openforensics_needs_one_part(tmp_path: Path) -> None:
    openforensics(tmp_path, annotations())
    (tmp_path / "Train_poly.json").write_text("{}")
    with pytest.raises(UserError, match="found Train_poly.json, Val_poly.json"):
        read_dataset("openforensics", tmp_path)
