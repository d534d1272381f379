"""Image-level and pixel-level measures as plain NumPy: AUC, F1, IoU and what they are made of.

Image-level measures work on the scores of all pictures at once. Pixel-level ones come from
`Confusion` (exact counts at one threshold) and from `ScoreHistogram` (65,536 bins, which keeps
the memory of a picture of any size constant and makes best-threshold F1 and pixel AUC a
cumulative sum). Measures that are not defined on what they are given are None, never 0 or 1.
"""

import dataclasses
import functools
from typing import Self

import numpy as np

BINS = 1 << 16
_CHUNK = 1 << 22  # pixels binned at a time, so a 142-megapixel map needs no second copy


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted half; None when one of the classes is absent."""
    if len(np.unique(labels)) < 2:
        return None
    from sklearn.metrics import roc_auc_score  # Its import takes a second.

    return float(roc_auc_score(labels, scores))


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = 10) -> np.ndarray:
    """Mean score, share of positives and count per occupied bin of scores: float64 [3, B].

    Bins are of equal width in [0, 1]; labels [N] in {0, 1}.
    """
    place = np.minimum((scores * bins).astype(int), bins - 1)
    counts, score, share = (np.bincount(place, w, bins) for w in (None, scores, labels))
    used = counts > 0
    return np.stack([score[used] / counts[used], share[used] / counts[used], counts[used]])


def expected_calibration_error(labels: np.ndarray, scores: np.ndarray) -> float:
    """The mean distance of score and share of positives over `reliability`'s bins, by count."""
    score, share, count = reliability(labels, scores)
    return float(np.average(np.abs(score - share), weights=count))


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Counts of true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray) -> Self:
        """Counts two bool arrays of one shape."""
        tp = int(np.count_nonzero(predicted & truth))
        fp = int(np.count_nonzero(predicted)) - tp
        fn = int(np.count_nonzero(truth)) - tp
        return cls(tp, fp, fn, predicted.size - tp - fp - fn)

    def inverted(self) -> "Confusion":
        """The counts of the opposite prediction."""
        return Confusion(tp=self.fn, fp=self.tn, fn=self.tp, tn=self.fp)

    def f1(self, empty: float = 0.0) -> float:
        """2 TP / (2 TP + FP + FN); `empty` when nothing is predicted and nothing is true."""
        denominator = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / denominator if denominator else empty

    def iou(self, empty: float = 0.0) -> float:
        """TP / (TP + FP + FN); `empty` when nothing is predicted and nothing is true."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else empty


@dataclasses.dataclass(frozen=True)
class ScoreHistogram:
    """How many tampered and authentic pixels fall in each of `BINS` equal steps of [0, 1].

    Bin b holds the scores that round to b / (BINS - 1), so maps of 8 or 16 bits lose nothing and
    any other score moves by at most 1 / 131,070.
    """

    tampered: np.ndarray  # int64 [BINS]
    authentic: np.ndarray  # int64 [BINS]

    @classmethod
    def of(cls, scores: np.ndarray, truth: np.ndarray, kept: np.ndarray | None = None) -> Self:
        """Bins a map of scores [H, W] in [0, 1] by its truth; `kept`: the pixels that count.

        Both are bool [H, W]; without `kept` all pixels count.
        """
        counts = np.zeros(2 * BINS, np.int64)
        rows = max(1, _CHUNK // max(1, scores.shape[1]))
        for start in range(0, scores.shape[0], rows):
            part = slice(start, start + rows)
            # Rounded to the nearest bin; tampered pixels go to the second half.
            index = (scores[part] * np.float32(BINS - 1) + np.float32(0.5)).astype(np.int64)
            index += truth[part] * np.int64(BINS)
            index = index.ravel() if kept is None else index[kept[part]]
            counts += np.bincount(index, minlength=2 * BINS)
        return cls(tampered=counts[BINS:], authentic=counts[:BINS])

    @functools.cached_property
    def _counts(self) -> tuple[int, int, np.ndarray, np.ndarray]:
        """(P, N, TP, FP): [1 + K] of "all is tampered" and of "score > t" for K scores t there."""
        occurs = (self.tampered + self.authentic) > 0
        positives, negatives = int(self.tampered.sum()), int(self.authentic.sum())
        tp = np.r_[positives, positives - np.cumsum(self.tampered)[occurs]]
        fp = np.r_[negatives, negatives - np.cumsum(self.authentic)[occurs]]
        return positives, negatives, tp, fp

    def auc(self) -> float | None:
        """Area under the pixel ROC curve, ties counted half; None when one class is absent."""
        positives, negatives, tp, fp = self._counts
        if positives == 0 or negatives == 0:
            return None
        return float(-np.trapezoid(tp / positives, fp / negatives))

    def best_f1(self, invert: bool = False) -> float:
        """The largest F1 over all thresholds, of a picture with tampered pixels.

        `invert`: take the better of the map and its opposite (TruFor).
        """
        positives, negatives, tp, fp = self._counts
        counts = [(tp, fp), (positives - tp, negatives - fp)][: 1 + invert]
        return max(float(np.max(2 * tp / (tp + fp + positives))) for tp, fp in counts)

    def otsu_mean(self) -> float:
        """WSCL's pooling: mean of the scores above Otsu's threshold, at most half the pixels."""
        counts = self.tampered + self.authentic
        total = int(counts.sum())
        levels = np.arange(BINS) / (BINS - 1)
        below, mass = np.cumsum(counts), np.cumsum(counts * levels)
        above = total - below
        with np.errstate(divide="ignore", invalid="ignore"):
            between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
        split = np.nan_to_num(between, nan=-1.0, posinf=-1.0).argmax()
        count = max(1, min(int(above[split]), total - (total // 2 + 1)))
        # The mean of the `count` largest scores.
        taken = np.diff(np.minimum(np.cumsum(counts[::-1]), count), prepend=0)
        return float((taken * levels[::-1]).sum() / count)
