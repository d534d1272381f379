"""Low-level statistics of tampered and authentic edges and interiors: the paper's Figure 2.

python -m data_pipelines.edge_statistics --dataset NAME --root PATH --output DIR

Four regions of each tampered picture that has a mask: tampered edges (a band along the mask's
outline), authentic edges (a band along Canny edges outside the mask), and what is left of the
tampered and of the authentic part. In each, the means of local variance, Sobel gradient, skewness
and excess kurtosis of the grey picture; then their distribution over the pictures. The widths of
band and window are ours, the paper gives none. CASIA v1's medians are printed below: by the
paper's premise tampered edges have more variance and gradient than authentic ones.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.images import read_image
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import load_mask
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.read_ahead import read_ahead
from data_pipelines.readers import READERS, read_dataset
from data_pipelines.soft_edges import canny_edges
from sapl_jax.errors import Parser, UserError, run_main
from sapl_jax.files import make_output_folder, write_json

Summary = dict[str, dict[str, dict[str, float]]]
REGIONS = ("tampered edges", "authentic edges", "tampered interior", "authentic interior")
STATISTICS = ("local variance", "Sobel gradient", "skewness", "excess kurtosis")
# Medians over the 798 pictures of CASIA v1 that have usable masks, by this module, per region.
CASIA_V1 = {
    "local variance": (1355.6, 1069.8, 108.0, 76.5),
    "Sobel gradient": (155.1, 143.5, 41.4, 34.6),
}
BAND, WINDOW = 3, 7  # pixels: half width of an edge band, side of the local window
# Below this variance (grey levels squared) a window is flat: its shape is rounding noise.
_FLAT = 1.0
_MIN_PIXELS = 50  # of a region, for its mean to say something


def regions(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The four REGIONS, bool [4, H, W], disjoint. rgb: uint8 [H, W, 3]; mask: bool [H, W]."""
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BAND + 1, 2 * BAND + 1))
    inside = mask.astype(np.uint8)
    outline = (cv2.dilate(inside, near) > 0) & (cv2.erode(inside, near) == 0)
    edges = cv2.dilate(canny_edges(rgb).astype(np.uint8), near) > 0
    # The outline's own Canny edges are dilated too, so authentic edges keep twice the distance.
    beside = cv2.dilate(inside, near, iterations=2) > 0
    return np.stack([outline, edges & ~beside, mask & ~outline & ~edges, ~mask & ~outline & ~edges])


def local_statistics(rgb: np.ndarray) -> np.ndarray:
    """The four STATISTICS per pixel, float64 [4, H, W], of the grey picture in grey levels 0-255.

    Skewness and excess kurtosis are NaN where the window is flat.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float64)
    gradient = cv2.magnitude(cv2.Sobel(grey, cv2.CV_64F, 1, 0), cv2.Sobel(grey, cv2.CV_64F, 0, 1))
    centred = grey - grey.mean()  # smaller powers, less cancellation
    m1, m2, m3, m4 = (
        cv2.boxFilter(centred**k, cv2.CV_64F, (WINDOW, WINDOW), borderType=cv2.BORDER_REFLECT)
        for k in (1, 2, 3, 4)
    )
    variance = np.maximum(m2 - m1**2, 0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    textured = np.where(variance > _FLAT, variance, np.nan)
    return np.stack([variance, gradient, third / textured**1.5, fourth / textured**2 - 3])


def measure_picture(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Means [4 regions, 4 statistics] of a picture, uint8 [H, W, 3], and its mask, bool [H, W].

    None where a region is absent or too small.
    """
    found = regions(rgb, mask)
    if found.sum((1, 2)).min() < _MIN_PIXELS:
        return None
    statistics = local_statistics(rgb)
    values = [statistics[:, region] for region in found]
    counts = np.array([np.isfinite(region).sum(1) for region in values])
    sums = np.array([np.nansum(region, 1) for region in values])
    return sums / counts if counts.min() >= _MIN_PIXELS else None


def measure_all(samples: Sequence[Sample]) -> tuple[np.ndarray, list[str]]:
    """(means [N, 4 regions, 4 statistics], reasons for the samples left out); all have masks."""

    def attempt(sample: Sample) -> np.ndarray | str:
        assert sample.mask is not None
        try:
            rgb = read_image(sample.image)
            mask = load_mask(sample.mask, rgb, sample.mask_style).grey > 127
        except UserError as error:
            return str(error)
        found = measure_picture(rgb, mask)
        return f"{sample.image}: a region is too small" if found is None else found

    found = read_ahead(attempt, samples, 16)
    results = list(ProgressBar(found, total=len(samples), unit="image"))
    means = [result for result in results if isinstance(result, np.ndarray)]
    reasons = [result for result in results if isinstance(result, str)]
    return np.array(means).reshape(-1, len(REGIONS), len(STATISTICS)), reasons


def summarise(means: np.ndarray) -> Summary:
    """Mean, median and quartiles over the pictures, per statistic and region.

    means: [N, 4 regions, 4 statistics]. Each statistic also has the share of pictures whose
    tampered edges are above their authentic ones.
    """
    summary: Summary = {}
    for s, statistic in enumerate(STATISTICS):
        summary[statistic] = {}
        for region, values in zip(REGIONS, means[:, :, s].T, strict=True):
            found = [values.mean(), *np.quantile(values, [0.25, 0.5, 0.75])]
            names = ("mean", "quartile_1", "median", "quartile_3")
            summary[statistic][region] = dict(zip(names, map(float, found), strict=True))
        above = float((means[:, 0, s] > means[:, 1, s]).mean())
        summary[statistic]["tampered edges above authentic edges"] = {"share": above}
    return summary


def table(summary: Summary) -> str:
    """Medians per statistic and region, CASIA v1's below, as a table for the screen."""
    lines = [" " * 16 + "".join(f"{region:>20}" for region in REGIONS)]
    for statistic in STATISTICS:
        medians = [summary[statistic][region]["median"] for region in REGIONS]
        for name, row in ((statistic, medians), ("  on CASIA v1", CASIA_V1.get(statistic, ()))):
            lines += [f"{name:16}" + "".join(f"{value:20.2f}" for value in row)] if row else []
    return "\n".join(lines)


def plot(means: np.ndarray, path: Path, title: str) -> None:
    """Writes the figure: one panel per statistic, one box per region over the pictures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(title, fontsize=10)
    colours = ("#D55E00", "#0072B2", "#F0B58A", "#8DBFE0")
    axes = figure.subplots(1, len(STATISTICS))
    for s, (axis, statistic) in enumerate(zip(axes, STATISTICS, strict=True)):
        look = {"patch_artist": True, "widths": 0.65, "medianprops": {"color": "k"}}
        boxes = axis.boxplot(means[:, :, s], showfliers=False, **look)["boxes"]
        for box, colour in zip(boxes, colours, strict=True):
            box.set_facecolor(colour)
        axis.set_title(statistic, fontsize=10)
        axis.set(xticks=[], axisbelow=True)
        axis.grid(axis="y", color="0.9")
    figure.legend(boxes, REGIONS, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """The command."""
    parser = Parser("sapl edge-statistics", __doc__)
    parser.add_argument("--dataset", required=True, choices=sorted(READERS), help="layout")
    parser.add_argument("--root", type=Path, required=True, help="its folder or list file")
    parser.add_argument("--output", type=Path, required=True, help="folder for what it writes")
    arguments = parser.parse_args()
    make_output_folder(arguments.output)
    listing = read_dataset(arguments.dataset, arguments.root)
    samples = [s for s in listing.samples if s.label == TAMPERED and s.mask is not None]
    if not samples:
        raise UserError(f"{arguments.root}: no tampered picture has a mask, which this needs")
    means, reasons = measure_all(samples)
    for reason in reasons:
        print(f"left out: {reason}", file=sys.stderr)
    if len(means) == 0:
        raise UserError(f"{arguments.root}: none of {len(samples)} pictures could be measured")
    summary = summarise(means)
    content = {"dataset": arguments.dataset, "root": str(arguments.root), "pictures": len(means)}
    content |= {"left_out": reasons, "options": {"band": BAND, "window": WINDOW}}
    content |= {"statistics": summary, "casia_v1_medians": CASIA_V1}
    write_json(arguments.output / "edge_statistics.json", content)
    title = f"{arguments.dataset}: {len(means)} pictures"
    plot(means, arguments.output / "edge_statistics.png", title)
    print(table(summary))
    print(f"medians over {len(means)} pictures; figure and quartiles in {arguments.output}")


if __name__ == "__main__":
    run_main(main)
