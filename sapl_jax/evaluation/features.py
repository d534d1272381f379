"""t-SNE of edge-patch features, as in the paper's Figure 7."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from sapl_jax.evaluation.evaluator import loaded_batches
from sapl_jax.evaluation.gallery import evenly_spaced

_PER_CLASS = 40  # pictures at most
_MAX_POINTS = 300  # patches shown per class: t-SNE takes quadratic time
_MIN_POINTS = 20  # below this a map of neighbourhoods shows nothing
_BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Edge patches as points in the plane.

    Attributes:
        points: float32 [n, 2].
        tampered: bool [n], whether the patch's picture is tampered.
    """

    points: np.ndarray
    tampered: np.ndarray


def edge_patch_embedding(detector: Any, listing: Listing, *, seed: int = 0) -> Embedding | None:
    """Embeds the deepest tap's edge patches of some pictures of each class, evenly chosen.

    `detector` has `edge_features`, as `Localizer`. None where a class is absent or too few patches
    are usable.
    """
    chosen = []
    for label in (AUTHENTIC, TAMPERED):
        samples = [sample for sample in listing.samples if sample.label == label]
        chosen += evenly_spaced(samples, _PER_CLASS)
    features, tampered = [], []
    for batch in loaded_batches(chosen, _BATCH_SIZE):
        images = [loaded.image for loaded in batch if loaded.image is not None]
        labels = [loaded.sample.label for loaded in batch if loaded.image is not None]
        if not images:
            continue
        found, usable = detector.edge_features(images, labels)
        for deepest, good, label in zip(found[:, -1], usable, labels, strict=True):
            features.append(deepest[good])
            tampered.append(np.full(int(good.sum()), label == TAMPERED))
    if not features:
        return None
    vectors, of_tampered = np.concatenate(features), np.concatenate(tampered)
    shown = np.concatenate(
        [
            which[np.linspace(0, len(which) - 1, min(_MAX_POINTS, len(which))).astype(int)]
            for which in (np.flatnonzero(~of_tampered), np.flatnonzero(of_tampered))
        ]
    )
    vectors, of_tampered = vectors[shown], of_tampered[shown]
    if len(vectors) < _MIN_POINTS or of_tampered.all() or not of_tampered.any():
        return None
    return Embedding(embed(vectors, seed), of_tampered)


def embed(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of vectors [n, d] with the cosine distance to [n, 2]; perplexity at most 30."""
    from sklearn.manifold import TSNE  # a second to import, and only reports need it

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    return tsne.fit_transform(vectors.astype(np.float32)).astype(np.float32)
