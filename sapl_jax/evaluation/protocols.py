"""The evaluation protocols of the field by name: how one picture is scored, how pictures average.

Papers print "P-F1" for five different numbers. Each protocol here is the rule that one public
code base applies, odd corners included, over this project's heat maps at the pictures' own size:

`sapl`   this project: per image over tampered pictures, threshold 0.5, mask > 127; a mask without a
         tampered pixel cannot be scored and is left out; image score = the prompts' softmax.
`mvss`   MVSS-Net `evaluate.py`: the map is stored as 8 bits before it is thresholded; mask
         non-zero; nothing predicted in an empty mask scores 1; image score = maximum of the 8-bit
         map; its image "F1" is the harmonic mean of sensitivity and specificity.
`wscl`   WSCL `engine.py`: mask non-zero; a picture whose mask is empty counts as authentic; image
         score = mean of the map above Otsu's threshold, at most half the pixels; image "F1" as
         MVSS-Net. (Its code seeks that threshold near the small map's median: scores differ. What
         it scores against an all-tampered mask, having no file, is left out of pixel measures.)
`benco`  IMDL-BenCo `PixelF1`, `PixelAUC`, `PixelIOU`: averaged over all pictures, an authentic one
         scoring 0; mask > 127.5; image score = the model's own. (Its pixel AUC orders tied pixels
         by chance; ties count half here.)
`trufor` TruFor `metrics.py`: tampered pictures only; pixels near the mask's outline are ignored
         (erosion 15, dilation 11); the better of the map and the inverted map, at 0.5 and at the
         best threshold; a picture whose kept pixels and prediction are one same class is skipped
         at 0.5 (there the original fails and drops it).

None of the published codes defines every measure that a report lists: the rest (say, TruFor's
pixel AUC) is computed on the same pixels and pictures as the protocol's F1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from data_pipelines.listing import AUTHENTIC, TAMPERED
from sapl_jax.metrics import Confusion, ScoreHistogram

DEFAULT = "sapl"
THRESHOLD = 0.5  # of pixels and of image scores, in every protocol


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One rule of evaluation. Fields say where the public code bases part ways."""

    name: str
    mask_above: float  # a mask pixel, uint8 with white = tampered, is tampered above this
    average_over: Literal["tampered", "all"]
    empty_mask: Literal["leave out", "score", "authentic"]  # a mask with no tampered pixel
    empty_f1: float  # F1 and IoU when nothing is predicted and nothing is tampered
    image_score: Literal["model", "map maximum", "map pooled"]
    image_f1: Literal["tampered class", "harmonic"]
    eight_bit_map: bool = False
    invert: bool = False
    border: tuple[int, int] | None = None  # (erosion, dilation) kernel widths in pixels


_ALL = (
    Protocol("sapl", 127, "tampered", "leave out", 0.0, "model", "tampered class"),
    Protocol("mvss", 0, "tampered", "score", 1.0, "map maximum", "harmonic", eight_bit_map=True),
    Protocol("wscl", 0, "tampered", "authentic", 0.0, "map pooled", "harmonic"),
    Protocol("benco", 127.5, "all", "score", 0.0, "model", "tampered class"),
    Protocol("trufor", 127, "tampered", "score", 0.0, "model", "tampered class",
             invert=True, border=(15, 11)),
)  # fmt: skip
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}


@dataclasses.dataclass
class ImageScores:
    """What one picture contributes. Pixel measures are None where the protocol leaves it out."""

    label: int  # 0 authentic, 1 tampered, as the protocol counts it
    score: float
    p_f1: float | None = None
    p_f1_best: float | None = None
    p_auc: float | None = None
    p_iou: float | None = None


PIXEL_MEASURES = ("p_f1", "p_f1_best", "p_auc", "p_iou")
MEASURES = ("i_auc", "i_f1", "balanced_accuracy", *PIXEL_MEASURES)


def score_image(
    protocol: Protocol, label: int, score: float, heat_map: np.ndarray, mask: np.ndarray | None
) -> ImageScores:
    """Scores one picture.

    Args:
        label: 0 authentic, 1 tampered.
        score: the model's own, in [0, 1]; NaN where it gives none.
        heat_map: float32 [H, W] in [0, 1] at the picture's own size.
        mask: uint8 [H, W], white = tampered, or None where there is none; not used for authentic
            pictures, whose truth is all authentic.
    """
    if protocol.eight_bit_map:
        heat_map = np.floor(heat_map * np.float32(255)) / np.float32(255)
    truth: np.ndarray | None = None
    if label == AUTHENTIC:
        truth = np.zeros(heat_map.shape, bool)
    elif mask is not None:
        truth = mask > protocol.mask_above
        if not truth.any() and protocol.empty_mask == "authentic":
            label = AUTHENTIC
        elif not truth.any() and protocol.empty_mask == "leave out":
            truth = None
    if protocol.image_score == "map maximum":
        score = float(heat_map.max())
    elif protocol.image_score == "map pooled":
        score = ScoreHistogram.of(heat_map, np.zeros(heat_map.shape, bool)).otsu_mean()
    scores = ImageScores(label, score)
    if truth is not None and (label == TAMPERED or protocol.average_over == "all"):
        _score_pixels(protocol, scores, heat_map, truth)
    return scores


def _score_pixels(
    protocol: Protocol, scores: ImageScores, heat_map: np.ndarray, truth: np.ndarray
) -> None:
    predicted, kept = heat_map > THRESHOLD, None
    histogram_truth = truth
    if protocol.border is not None:
        # Kept are the pixels inside the mask's erosion or outside its dilation. Beyond the border
        # OpenCV sees nothing and SciPy, which the original uses, a mirror image: a minimum or
        # maximum is the same either way.
        grey = truth.astype(np.uint8)
        erosion, dilation = (np.ones((width, width), np.uint8) for width in protocol.border)
        kept = (cv2.erode(grey, erosion) > 0) | (cv2.dilate(grey, dilation) == 0)
        predicted, truth = predicted[kept], truth[kept]
    if truth.size == 0:
        return
    histogram = ScoreHistogram.of(heat_map, histogram_truth, kept)
    counts = Confusion.of(predicted, truth)
    options = [counts, counts.inverted()] if protocol.invert else [counts]
    one_class = counts.tp == truth.size or counts.tn == truth.size
    if not (protocol.border is not None and one_class):
        scores.p_f1 = max(option.f1(protocol.empty_f1) for option in options)
        scores.p_iou = max(option.iou(protocol.empty_f1) for option in options)
    if counts.tp + counts.fn > 0:
        scores.p_f1_best = histogram.best_f1(protocol.invert)
        scores.p_auc = histogram.auc()
    else:
        # A threshold above every score predicts nothing, so an empty mask is matched exactly.
        scores.p_f1_best = protocol.empty_f1
        scores.p_auc = 0.0 if protocol.average_over == "all" else None


def measures(
    protocol: Protocol, images: Sequence[ImageScores], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """The measures of D weightings of the pictures at once.

    `weights` float64 [D, N]: how often each picture counts.

    Returns:
        Per measure float64 [D], NaN where no picture that has it counts. Image-level measures are
        there only where both classes are and every picture has a score, pixel-level ones only where
        a tampered picture has a mask: zeros of authentic ones alone would look like a failure.
    """
    labels = np.array([image.label for image in images], bool)
    scores = np.array([image.score for image in images], np.float64)
    found: dict[str, np.ndarray] = {}
    if any(image.label == TAMPERED and image.p_f1_best is not None for image in images):
        pixels = np.array([[getattr(i, m) for m in PIXEL_MEASURES] for i in images], np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0, where no picture with a mask was drawn
            means = weights @ np.nan_to_num(pixels) / (weights @ ~np.isnan(pixels))
        found = dict(zip(PIXEL_MEASURES, means.T, strict=True))
    if labels.all() or not labels.any() or not np.isfinite(scores).all():
        return found
    above, below = weights[:, labels], weights[:, ~labels]
    positives, negatives = above.sum(axis=1), below.sum(axis=1)
    recall = above @ (scores[labels] > THRESHOLD) / positives
    specificity = below @ (scores[~labels] <= THRESHOLD) / negatives
    found["balanced_accuracy"] = (recall + specificity) / 2
    if protocol.image_f1 == "harmonic":
        found["i_f1"] = 2 * recall * specificity / np.maximum(recall + specificity, 1e-12)
    else:
        tp, fp = recall * positives, (1 - specificity) * negatives
        found["i_f1"] = 2 * tp / (tp + fp + positives)
    # The share of (tampered, authentic) pairs in the right order, ties half: authentic pictures
    # sorted once, their weights summed up to each tampered one's score.
    order = np.argsort(scores[~labels])
    upto = np.pad(np.cumsum(below[:, order], axis=1), ((0, 0), (1, 0)))
    left, right = (
        np.searchsorted(scores[~labels][order], scores[labels], side) for side in ("left", "right")
    )
    pairs = np.einsum("dp,dp->d", above, upto[:, left] + upto[:, right]) / 2
    found["i_auc"] = pairs / (positives * negatives)
    return found


def summarise(protocol: Protocol, images: list[ImageScores]) -> dict[str, float | int | None]:
    """Averages pictures into the measures of a data set; None for what it cannot define.

    i_auc, i_f1, balanced_accuracy over all pictures (None unless both classes are there and all
    pictures have a score); p_f1 at 0.5, p_f1_best, p_auc, p_iou as the mean over the pictures that
    have the measure; and counts: images, authentic, tampered, and masks, the number of tampered
    pictures behind p_f1.
    """
    found = measures(protocol, images, np.ones((1, len(images))))
    values = {measure: float(found.get(measure, [np.nan])[0]) for measure in MEASURES}
    tampered = [image for image in images if image.label == TAMPERED]
    return {
        **{measure: value if np.isfinite(value) else None for measure, value in values.items()},
        "images": len(images),
        "authentic": len(images) - len(tampered),
        "tampered": len(tampered),
        "masks": sum(image.p_f1 is not None for image in tampered),
    }
