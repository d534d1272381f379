"""t-SNE of edge-patch features, as in the paper's Figure 7."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.listing import AUTHENTIC, TAMPERED, Listing
from sapl_jax.evaluation.evaluator import loaded_batches
from sapl_jax.evaluation.gallery import evenly_spaced

MIN_POINTS = 20  # below this a map of neighbourhoods shows nothing


class HasEdgeFeatures(Protocol):
    """A detector that shows the features of its top edge patches."""

    def edge_features(
        self, images: Sequence[np.ndarray], labels: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(features [N, L, K, D] unit vectors, usable bool [N, K]) of N pictures."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """points: float32 [n, 2]. tampered: bool [n], whether the patch's picture is tampered."""

    points: np.ndarray
    tampered: np.ndarray


def edge_patch_embedding(
    detector: HasEdgeFeatures,
    listing: Listing,
    *,
    per_class: int = 40,
    max_points: int = 300,
    batch_size: int = 8,
    seed: int = 0,
) -> Embedding | None:
    """Embeds the deepest tap's edge patches of up to `per_class` pictures of each class.

    max_points: patches shown per class, evenly chosen (t-SNE takes quadratic time). None where a
    class is absent or too few patches are usable.
    """
    chosen = []
    for label in (AUTHENTIC, TAMPERED):
        samples = [sample for sample in listing.samples if sample.label == label]
        chosen += evenly_spaced(samples, per_class)
    features, tampered = [], []
    for batch in loaded_batches(chosen, batch_size):
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
            which[np.linspace(0, len(which) - 1, min(max_points, len(which))).astype(int)]
            for which in (np.flatnonzero(~of_tampered), np.flatnonzero(of_tampered))
        ]
    )
    vectors, of_tampered = vectors[shown], of_tampered[shown]
    if len(vectors) < MIN_POINTS or of_tampered.all() or not of_tampered.any():
        return None
    return Embedding(embed(vectors, seed), of_tampered)


def embed(vectors: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of vectors [n, d] with the cosine distance to [n, 2]; perplexity at most 30."""
    from sklearn.manifold import TSNE  # a second to import, and only reports need it

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    return tsne.fit_transform(vectors.astype(np.float32)).astype(np.float32)
