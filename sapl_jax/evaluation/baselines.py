"""What any method has to beat, all without training: NOI1, CFA1 and trivial predictors.

NOI1 and CFA1 are classics that the paper compares with; they reduce a picture to a number per block
and turn it into a heat map in [0, 1]. All run through the evaluator like a trained model.
"""

import zlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data_pipelines.soft_edges import soft_edge_map
from sapl_jax.inference.detector import Result, result_of

# Daubechies' orthonormal low-pass filter with 8 taps ("db4" of most libraries).
_DB8_LOW = np.array([
    -0.010597401784997278, 0.032883011666982945, 0.030841381835986965, -0.18703481171888114,
    -0.02798376941698385, 0.6308807679295904, 0.7148465705525415, 0.23037781330885523,
])  # fmt: skip
_DB8_HIGH = _DB8_LOW[::-1] * (-1.0) ** np.arange(8)
_NOISE_BLOCK = 8  # coefficients of the HH band, so 16 pixels of the picture
_CFA_BLOCK = 8  # pixels
_STRIP = 1024  # rows worked on at a time; a multiple of every block
_HALO = 32  # rows around a strip that its filters may look at; a multiple of every block
_TOP = 0.01  # share of blocks whose mean is the image score
_CELLS = 12  # the random map's cells along each side: about the size of a ViT's patches


class OneByOne:
    """A detector that applies one function to every picture, uint8 RGB [H, W, 3] of any size."""

    def __init__(self, predict: Callable[[np.ndarray], Result]) -> None:
        self._predict = predict

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """A result for each picture."""
        return [self._predict(image) for image in images]


def noise_levels(image: np.ndarray) -> np.ndarray:
    """Noise sigma in grey levels per block of 16 pixels, float32 [h, w] (NOI1).

    Mahdian and Saic, "Using noise inconsistencies for blind image forensics" (2009): the median
    absolute value of a block of the finest diagonal wavelet band, over 0.6745.
    """

    def sigmas(luma: np.ndarray) -> np.ndarray:
        band = np.abs(cv2.sepFilter2D(luma, cv2.CV_32F, _DB8_HIGH, _DB8_HIGH)[::2, ::2])
        return np.median(_blocks(band, _NOISE_BLOCK), axis=-1) / 0.6745

    return _in_strips(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), sigmas, 2 * _NOISE_BLOCK)


def noi1(image: np.ndarray) -> Result:
    """NOI1: how far a block's noise is from the picture's usual noise.

    The paper groups blocks of alike noise; which group is the forgery is left to the eye. Here a
    block's log noise is compared with the median in robust standard deviations z, and the map is
    z / (z + 3): 0.5 at three deviations.
    """
    levels = np.log(noise_levels(image) + 0.1)  # 0.1: flat blocks have no noise at all
    distance = np.abs(levels - np.median(levels))
    spread = 1.4826 * np.median(distance)
    deviation = distance / max(float(spread), 1e-3)
    return _of_blocks(deviation / (deviation + 3), 2 * _NOISE_BLOCK, image)


def cfa_evidence(image: np.ndarray) -> np.ndarray:
    """CFA1's evidence of demosaicing per block of 8 pixels, float32 [h, w]: 0 without traces.

    Ferrara et al., "Image forgery localization via fine-grained analysis of CFA artifacts" (2012):
    the log ratio of the local variances of the green channel's prediction error at pixels that the
    sensor measured and at pixels that were interpolated.
    """
    evidence = _in_strips(image[..., 1], _log_ratio, _CFA_BLOCK)
    # Which of the two checkerboards the sensor measured is unknown: the one that looks measured.
    return evidence if np.median(evidence) >= 0 else -evidence


def _log_ratio(green: np.ndarray) -> np.ndarray:
    """Per block, of the local variances of the prediction error on the two checkerboards."""
    cross = np.array([[0, 0.25, 0], [0.25, 0, 0.25], [0, 0.25, 0]], np.float32)
    error = green.astype(np.float32) - cv2.filter2D(green, cv2.CV_32F, cross)
    rows, columns = np.ogrid[: green.shape[0], : green.shape[1]]
    checkerboard = ((rows + columns) % 2 == 0).astype(np.float32)
    variance = np.empty_like(error)
    for board in (checkerboard, 1 - checkerboard):
        weight = cv2.GaussianBlur(board, (7, 7), 1)
        mean = cv2.GaussianBlur(error * board, (7, 7), 1) / weight
        square = cv2.GaussianBlur(error * error * board, (7, 7), 1) / weight
        variance = np.where(board > 0, square - mean * mean, variance)
    # 0.1 (grey levels squared): below it a block is flat and says nothing either way.
    blocks = _blocks(np.log(np.maximum(variance, 0) + 0.1), _CFA_BLOCK)
    position = np.arange(_CFA_BLOCK)
    even = ((position[:, None] + position[None, :]) % 2 == 0).ravel()
    return blocks[..., even].mean(-1) - blocks[..., ~even].mean(-1)


def cfa1(image: np.ndarray) -> Result:
    """CFA1: the probability that a block has lost its demosaicing traces.

    The blocks' evidence is modelled, as in the paper, by two Gaussians fitted with EM: mean 0 for
    blocks without traces, a free positive mean for blocks with them.
    """
    return _of_blocks(absence_probability(cfa_evidence(image)), _CFA_BLOCK, image)


def absence_probability(evidence: np.ndarray) -> np.ndarray:
    """P(no traces | evidence) under a mixture of N(0, s0) and N(m, s1), m > 0, fitted with EM."""
    values = evidence.astype(np.float64)
    mean = max(float(np.quantile(values, 0.75)), 1e-2)
    spreads = np.array([float(values.std()) + 1e-2] * 2)
    share = 0.5
    absent = np.full(values.shape, 0.5)
    for _ in range(100):
        log_absent = np.log(share) - np.log(spreads[0]) - 0.5 * (values / spreads[0]) ** 2
        deviation = (values - mean) / spreads[1]
        log_present = np.log(1 - share) - np.log(spreads[1]) - 0.5 * deviation**2
        before, absent = absent, 1 / (1 + np.exp(np.clip(log_present - log_absent, -50, 50)))
        present = 1 - absent
        share = float(np.clip(absent.mean(), 1e-3, 1 - 1e-3))
        mean = max(float((present * values).sum() / max(present.sum(), 1e-9)), 1e-2)
        parts = ((absent, values), (present, values - mean))
        variances = [(p * off**2).sum() / max(p.sum(), 1e-9) for p, off in parts]
        spreads = np.maximum(np.sqrt(variances), 1e-2)
        if np.abs(absent - before).max() < 1e-4:
            break
    return absent


def _of_blocks(blocks: np.ndarray, side: int, image: np.ndarray) -> Result:
    """The result of a map per block of `side` pixels; the score is its largest values' mean."""
    blocks = blocks.astype(np.float32)
    largest = np.sort(blocks, axis=None)[-max(1, round(_TOP * blocks.size)) :]
    covered = (blocks.shape[1] * side, blocks.shape[0] * side)
    heat_map = cv2.resize(blocks, covered)[: image.shape[0], : image.shape[1]]
    np.clip(heat_map, 0, 1, out=heat_map)
    return result_of(float(largest.mean()), heat_map)


def _blocks(values: np.ndarray, side: int) -> np.ndarray:
    """[H, W] -> [H / side, W / side, side * side]."""
    rows, columns = values.shape[0] // side, values.shape[1] // side
    split = values.reshape(rows, side, columns, side)
    return split.transpose(0, 2, 1, 3).reshape(rows, columns, side * side)


def _in_strips(
    channel: np.ndarray, per_block: Callable[[np.ndarray], np.ndarray], side: int
) -> np.ndarray:
    """`per_block` of a channel uint8 [H, W], mirrored up to whole blocks of `side` pixels.

    It works strip by strip, so that only strips are float.
    """
    whole = np.pad(channel, [(0, -length % side) for length in channel.shape], mode="symmetric")
    parts = []
    for start in range(0, whole.shape[0], _STRIP):
        above = min(_HALO, start)
        part = whole[start - above : start + _STRIP + _HALO].astype(np.float32)
        parts.append(per_block(part)[above // side :][: _STRIP // side])
    return np.concatenate(parts)


def everything_tampered(image: np.ndarray) -> Result:
    """Every pixel of every picture is tampered."""
    return result_of(1.0, np.ones(image.shape[:2], np.float32))


def random_guess(image: np.ndarray) -> Result:
    """A random score and a random map of coarse cells; the same picture gets the same guess."""
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    cells = rng.random((_CELLS, _CELLS), dtype=np.float32)
    heat_map = cv2.resize(cells, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return result_of(float(rng.random()), heat_map)


def edge_map_alone(image: np.ndarray) -> Result:
    """The soft edge map of Eq. (1) as the heat map, its mean as the score."""
    heat_map = soft_edge_map(image)
    return result_of(float(heat_map.mean()), heat_map)


CLASSICS = {"noi1": OneByOne(noi1), "cfa1": OneByOne(cfa1)}
TRIVIAL = {
    "everything tampered": OneByOne(everything_tampered),
    "random": OneByOne(random_guess),
    "edge map alone": OneByOne(edge_map_alone),
}
