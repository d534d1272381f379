"""No global statistic of a generated file tells authentic from tampered."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_pipelines.generator.benchmark import make_example

TRAIN, TEST = 500, 600


def statistics(jpeg: bytes) -> dict[str, list[float]]:
    """File size, global noise level and JPEG statistics of one file."""
    with Image.open(io.BytesIO(jpeg)) as file:
        tables, layers = file.quantization, file.layer
    rgb = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    grey = cv2.cvtColor(rgb, cv2.COLOR_BGR2GRAY).astype(np.float32)
    diagonal = grey[:-1, :-1] - grey[1:, :-1] - grey[:-1, 1:] + grey[1:, 1:]
    rows, columns = (side // 8 * 8 for side in grey.shape)
    blocks = grey[:rows, :columns].reshape(rows // 8, 8, columns // 8, 8).swapaxes(1, 2)
    coefficients = np.stack([cv2.dct(block) for block in blocks.reshape(-1, 8, 8) - 128])
    levels = np.abs(np.rint(coefficients / np.float32(tables[0]).reshape(8, 8)))
    step = np.abs(np.diff(grey, axis=1)).mean(0)
    seams = step[7::8].mean() / (step.mean() + 1e-6)
    return {
        "file size": [len(jpeg), len(jpeg) / grey.size],
        "noise level": [np.median(np.abs(diagonal))],
        "JPEG": [
            sum(tables[0]),
            layers[0][1],
            seams,
            (levels == 0).mean(),
            (levels == 1).mean(),
            *levels.mean(0)[[0, 1, 1, 2, 4, 7], [1, 0, 1, 2, 4, 7]],
        ],
    }


@pytest.fixture(scope="module")
def benchmark() -> tuple[dict[str, np.ndarray], np.ndarray]:
    rows = [statistics(make_example(11, n, 96).jpeg) for n in range(TRAIN + TEST)]
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return table | {"all of them": np.concatenate(list(table.values()), axis=1)}, np.arange(
        TRAIN + TEST
    ) % 2


@pytest.mark.parametrize("name", ["file size", "noise level", "JPEG", "all of them"])
@pytest.mark.parametrize(
    "classifier",
    [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        HistGradientBoostingClassifier(max_iter=60, random_state=0),
    ],
    ids=["linear", "boosted"],
)
def test_global_statistics_do_not_separate_the_classes(benchmark, name, classifier) -> None:
    table, label = benchmark
    classifier.fit(table[name][:TRAIN], label[:TRAIN])
    score = classifier.predict_proba(table[name][TRAIN:])[:, 1]
    auc = roc_auc_score(label[TRAIN:], score)
    # 0.5 within three standard errors of an AUC over 600 pictures.
    assert 0.43 < auc < 0.57, f"{name} alone reaches an AUC of {auc:.3f}"
