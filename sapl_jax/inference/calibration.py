"""What a model's numbers are worth: probability, map threshold, and verdicts with a stated rate.

Platt, "Probabilistic outputs for support vector machines" (1999), for temperature and bias; Clopper
and Pearson (1934) for what so many pictures can promise.
"""

import dataclasses
import hashlib
import json
import logging
import math
from pathlib import Path

import jax
import numpy as np

from data_pipelines.listing import AUTHENTIC, LABEL_NAMES, TAMPERED
from sapl_jax.errors import UserError
from sapl_jax.inference.detector import logit
from sapl_jax.models.sapl import SAPL
from sapl_jax.training.state import split_model
from sapl_jax.workdir import write_or_refuse

log = logging.getLogger(__name__)

FILE = "calibration.json"
FORMAT = 1
INCONCLUSIVE = "inconclusive"
BINS = 4096  # of a heat map's values
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was found on pictures whose labels are known and that the model was not trained on."""

    model: str  # fingerprint of the weights
    pictures: str  # where they came from, for the reader
    authentic: int  # how many authentic ones there were
    tampered: int
    # The stated rate of authentic pictures called tampered, and of tampered ones called authentic.
    false_alarms: float
    tampered_above: float  # scores above this are called tampered
    alarms: int  # how many of the authentic pictures were above
    authentic_to: float | None  # scores below are called authentic; None: that verdict is not given
    marked: float  # the share of authentic pictures' pixels that the map may mark
    map_threshold: float  # of the heat map
    # T and bias of probability = sigmoid(logit(score) / T + bias); None: not fitted.
    temperature: float | None = None
    bias: float = 0.0
    fitted_on: tuple[int, int] = (0, 0)  # authentic and tampered pictures behind T and bias
    alarm_rate: tuple[float, float] = (0.0, 1.0)  # what `clopper_pearson` says of the alarms
    missed: float | None = None  # the rate of tampered ones below authentic_to, if not false_alarms

    def probability(self, score: float | np.ndarray) -> np.ndarray | None:
        """The calibrated probability of scores of any shape; None where it was not fitted."""
        if self.temperature is None:
            return None
        margin = logit(score) / self.temperature + self.bias
        return np.exp(-np.logaddexp(0, -margin))

    def verdict(self, score: float) -> str:
        """`tampered`, `authentic` or `inconclusive`; `rule` says when."""
        if score > self.tampered_above:
            return LABEL_NAMES[TAMPERED]
        if self.authentic_to is not None and score < self.authentic_to:
            return LABEL_NAMES[AUTHENTIC]
        return INCONCLUSIVE

    @property
    def rule(self) -> str:
        """When a picture is called what, and what that promises."""
        low, high = self.alarm_rate
        rest = "none is called authentic: below no score are so few tampered ones known to lie"
        if self.authentic_to is not None:
            rest = (
                f"authentic below {self.authentic_to:.4g}, where at most "
                f"{self.missed or self.false_alarms:.1%} of {self.tampered} tampered ones lie"
            )
        return (
            f"Tampered above a score of {self.tampered_above:.4g}, which {self.alarms} of "
            f"{self.authentic} authentic pictures exceed (stated: {self.false_alarms:.1%}; with "
            f"{_CONFIDENCE:.0%} confidence {low:.1%} to {high:.1%} of pictures like these); {rest}"
            f"; else inconclusive. Measured on {self.pictures}."
        )


def clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of a rate that showed `hits` times in `count`."""
    from scipy.stats import binomtest  # slow to import, and a calibration has the answer

    low, high = binomtest(hits, count).proportion_ci(_CONFIDENCE)
    return float(low), float(high)


def check_enough(authentic: int, false_alarms: float) -> None:
    """UserError where so many authentic pictures cannot promise that rate."""
    if math.floor(false_alarms * (authentic + 1)) < 1:
        possible = math.ceil(1000 / (authentic + 1)) / 1000
        other = f", or --false-alarms {possible:g} or higher" if authentic else ""
        noun = "picture" if authentic == 1 else "pictures"
        raise UserError(
            f"{authentic} authentic {noun} cannot promise a false-alarm rate of {false_alarms:g}: "
            f"that takes {math.ceil(1 / false_alarms) - 1} or more. Give more pictures{other}."
        )


def calibrate(
    labels: np.ndarray, scores: np.ndarray, map_counts: np.ndarray,
    *, false_alarms: float, marked: float, model: str, pictures: str,
) -> Calibration:  # fmt: skip
    """The calibration that labelled pictures give; keywords as in `Calibration`.

    The threshold is the k-th largest score of n authentic pictures, k = floor(rate (n + 1)): a new
    one like them is above it with a probability of at most k / (n + 1).

    Args:
        labels: int [N], 0 authentic, 1 tampered.
        scores: float [N] in [0, 1].
        map_counts: float [BINS], how an authentic picture's pixels spread over the map's steps.

    Raises:
        UserError: too few authentic pictures for that rate.
    """
    authentic = np.sort(scores[labels == AUTHENTIC])[::-1]
    tampered = np.sort(scores[labels == TAMPERED])
    rank, missed = (math.floor(false_alarms * (len(s) + 1)) for s in (authentic, tampered))
    check_enough(len(authentic), false_alarms)
    above = float(authentic[rank - 1])
    # Marked: all pixels of higher steps; the lowest step whose upper edge leaves few enough.
    higher = 1 - np.cumsum(map_counts) / map_counts.sum()
    step = int(np.argmax(higher <= marked + 1e-9))
    temperature, bias = fit_temperature(labels, scores) if len(tampered) else (None, 0.0)
    counts, alarms = (len(authentic), len(tampered)), int(np.sum(authentic > above))
    return Calibration(
        model, pictures, *counts, false_alarms,
        tampered_above=above,
        alarms=alarms,
        alarm_rate=clopper_pearson(alarms, len(authentic)),
        authentic_to=min(above, float(tampered[missed - 1])) if missed >= 1 else None,
        marked=marked,
        map_threshold=(step + 1) / BINS,
        temperature=temperature, bias=bias, fitted_on=counts if len(tampered) else (0, 0),
    )  # fmt: skip


def with_tampered_side_of(before: Calibration, found: Calibration) -> Calibration:
    """What authentic pictures alone gave, with what tampered ones gave before: fit and low end.

    The low end promised the earlier rate, so for a lower one it is left out, with a warning.
    """
    low, missed = before.authentic_to, before.missed or before.false_alarms
    if low is not None and missed > found.false_alarms:
        text = (
            "none is called authentic: the validation split was calibrated for a rate of %g. "
            "Calibrate it with --false-alarms %g, and then these again."
        )
        log.warning(text, missed, found.false_alarms)
        low = None
    low = None if low is None else min(low, found.tampered_above)
    taken = {n: getattr(before, n) for n in ("tampered", "temperature", "bias", "fitted_on")}
    return dataclasses.replace(found, authentic_to=low, missed=missed, **taken)


def fit_temperature(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """(T, b) of sigmoid(logit(score) / T + b) by the cross entropy with Platt's soft targets.

    Raises:
        UserError: tampered pictures do not have the higher scores.
    """
    from sklearn.linear_model import LogisticRegression  # predicting does not need it

    x = logit(scores.astype(np.float64))
    positive = labels == TAMPERED
    ones, zeros = positive.sum(), (~positive).sum()
    target = np.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    # Each picture counts in both classes, by its soft target.
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    model.fit(np.r_[x, x][:, None], np.repeat([1, 0], len(x)), np.r_[target, 1 - target])
    slope, bias = model.coef_.item(), model.intercept_.item()
    if slope <= 0:
        raise UserError(
            "Tampered pictures do not have higher scores than authentic ones here: there is "
            "nothing to calibrate. Check the labels, or train a model that tells them apart."
        )
    return float(1 / slope), float(bias)


def fingerprint(model: SAPL) -> str:
    """16 hex digits that change with the trained weights."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(split_model(model)[0]):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def write(folder: Path, calibration: Calibration) -> None:
    """Writes calibration.json beside a checkpoint; UserError where that cannot be."""
    write_or_refuse(folder / FILE, {"format": FORMAT, **dataclasses.asdict(calibration)})


def read(folder: Path) -> Calibration | None:
    """The calibration beside a checkpoint, None where there is none; UserError for a bad file."""
    path = folder / FILE
    try:
        return of_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a calibration of format {FORMAT} ({error}): delete it and run "
            "`python -m sapl_jax.calibrate` again."
        ) from error


def of_dict(content: dict) -> Calibration:
    """A calibration of its JSON; ValueError, KeyError or TypeError for anything else."""
    tuples = {name: tuple(content[name]) for name in ("fitted_on", "alarm_rate")}
    stored = {"format": FORMAT, **content, **tuples}
    if stored.pop("format") != FORMAT:
        raise ValueError("another format")
    return Calibration(**stored)


def verdict(score: float, calibration: Calibration | None = None) -> str:
    """In a word; without a calibration, whether the "fake" prompt is the more similar one."""
    return calibration.verdict(score) if calibration else LABEL_NAMES[int(score > 0.5)]
