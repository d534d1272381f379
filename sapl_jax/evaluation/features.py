"""What a model tells edges apart by: a map of its edge-patch features (Figure 7)."""

from typing import Any

import numpy as np

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from sapl_jax.evaluation.evaluator import evenly_spaced, loaded_batches

_PER_CLASS = 40  # pictures at most that give edge patches
_MAX_POINTS = 300  # edge patches shown per class: t-SNE takes quadratic time
_MIN_POINTS = 20  # below this a map of neighbourhoods shows nothing
_BATCH_SIZE = 8


def edge_patch_embedding(
    detector: Any, listing: Listing, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """t-SNE of the deepest tap's edge patches, of some pictures of each class, evenly chosen.

    `detector` has `edge_features`, as `Localizer`. Returns points float32 [n, 2] and bool [n],
    whether each is of a tampered picture; None where a class is absent or too few are usable.
    """
    chosen = []
    for label in (AUTHENTIC, TAMPERED):
        samples = [sample for sample in listing.samples if sample.label == label]
        chosen += evenly_spaced(samples, _PER_CLASS)
    features: dict[int, list[np.ndarray]] = {AUTHENTIC: [], TAMPERED: []}
    for batch in loaded_batches(chosen, _BATCH_SIZE):
        readable = [(item.image, item.sample.label) for item in batch if item.image is not None]
        if not readable:
            continue
        images, labels = zip(*readable, strict=True)
        found, usable = detector.edge_features(images, labels)
        for deepest, good, label in zip(found[:, -1], usable, labels, strict=True):
            features[label] += list(deepest[good])
    shown = [evenly_spaced(own, _MAX_POINTS) for own in features.values()]
    vectors = np.array([*shown[AUTHENTIC], *shown[TAMPERED]], np.float32)
    if len(vectors) < _MIN_POINTS or not all(shown):
        return None
    from sklearn.manifold import TSNE  # a second to import, and only reports need it
    from threadpoolctl import threadpool_limits

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    with threadpool_limits(1):  # On so few points threads take three times the processor time.
        points = tsne.fit_transform(vectors).astype(np.float32)
    return points, np.arange(len(points)) >= len(shown[AUTHENTIC])
