"""`Localizer`: a trained SAPL that turns pictures into scores, heat maps and masks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.preprocess import Geometry, Preprocessed, preprocess
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax import devices
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import of_dict, verdict
from sapl_jax.inference.detector import Result, result_of
from sapl_jax.inference.opening import load_model
from sapl_jax.inference.tiling import TiledDetector
from sapl_jax.models.hecl import make_anchors, select_patches
from sapl_jax.models.localization import TAMPERED, heat_map_of_picture, stretched
from sapl_jax.models.sapl import SAPL, score_and_patch_map
from sapl_jax.training.state import FrozenModel, PyTree, merge_model, split_model

_BATCH_PER_DEVICE = 8


class Localizer:
    """Scores, heat maps and masks of pictures of any size.

    Attributes:
        config: the configuration of the run the weights come from.
        source: of the weights, as `TrainedModel` has it.
        geometry: size of the resized picture and of a patch, in pixels.
        calibration: what `sapl_jax.calibrate` found for these weights, or None; None, too, where
            the scores come from other tiles than the configuration's.
        threshold: of the mask; the calibration's, which is of maps in the configuration's tiles,
            or the configuration's.
        tile: pixels of the tiles that larger pictures' maps come from, and their scores where the
            configuration has tiles; 0 where they are shrunk instead.
        overlap: share of a tile that neighbours have in common.
        level: of a stretched map, as `stretched` has it; 0: maps are not stretched.
    """

    def __init__(
        self,
        model: SAPL,
        config: ConfigDict,
        source: dict[str, Any],
        tile: int | None = None,
        overlap: float = TiledDetector.overlap,
    ):
        """Places the model's weights on all local devices; `load` is the usual way in."""
        self.config, self.source = config, source
        self.geometry = Geometry(config.image.size, model.clip.config.vision.patch_size)
        self.edge_options = EdgeOptions.from_config(config.image)
        configured: int = config.model.heat_map.tile
        self.tile, self.overlap = configured if tile is None else tile, overlap
        # What it learned is nothing that a shrunken picture shows: its tiles give the score.
        self._share: float | None = config.model.pooled_share if configured else None
        self.level: float = config.model.heat_map.normalize
        self.threshold: float = config.model.heat_map.threshold
        given = self.tile, overlap
        other_tiles = given != (configured, TiledDetector.overlap) and any((configured, self.tile))
        # Other tiles have maps of another kind than was calibrated, and scores if they give those.
        stored = None if configured and other_tiles else source.get("calibration")
        self.calibration = of_dict(stored) if stored else None
        if self.calibration and not other_tiles:
            self.threshold = self.calibration.map_threshold
        self.batch_size = _BATCH_PER_DEVICE * jax.local_device_count()
        params, frozen = split_model(model)
        self._weights: PyTree = devices.replicate((params, frozen.params), jax.local_devices())

        def merged(weights: PyTree) -> SAPL:
            return merge_model(weights[0], FrozenModel(frozen.graph, weights[1]))

        def analyse(weights: PyTree, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            return score_and_patch_map(merged(weights), *inputs)

        def edge_features(weights: PyTree, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            image, edge_map, valid, label = inputs
            sapl, gives = merged(weights), jax.nn.one_hot(label, 2, dtype=bool)
            found, flat = sapl(image, edge_map, valid), valid.reshape(len(label), -1)
            given = found.similarity, sapl.scale, found.edge_map, flat, label == TAMPERED
            indices, usable = select_patches(*given, config.model.hecl)
            anchors = make_anchors(sapl.heads, found.embeddings, indices, usable, gives)
            own = label[None, :, None, None, None]
            features = jnp.take_along_axis(anchors.features, own, axis=2)[:, :, 0]
            return jnp.swapaxes(features, 0, 1), usable

        self._analyse = devices.split_batch(analyse, jax.local_devices())
        self._edge_features = devices.split_batch(edge_features, jax.local_devices())

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | None = None,
        *,
        dtype: str | None = None,
        which: str | None = None,
        tile: int | None = None,
        overlap: float = TiledDetector.overlap,
    ) -> "Localizer":
        """A trained model from a training run's folder or from an export.

        Args:
            checkpoint: a work directory of `sapl_jax.train`, or a folder that
                `sapl_jax.export --format orbax` wrote; None: the package's, with a warning.
            dtype: compute type, "float32" or "bfloat16"; None: the one the model was trained with
                ("auto" is bfloat16 where the hardware has it, else float32).
            which: of a run's checkpoints, "last", or "best" by validation I-AUC; None: what its
                configuration keeps (`train.keep`).
            tile, overlap: as the attributes; without a tile the configuration's.

        Raises:
            UserError: nothing there, an export of another version, damaged files, or CLIP's weights
                are not those the run was trained on.
        """
        return cls(*load_model(checkpoint, dtype, which), tile, overlap)

    def __call__(self, image: np.ndarray) -> Result:
        """Analyses one picture, uint8 RGB [H,W,3]."""
        return self.analyse([image])[0]

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Analyses pictures, uint8 RGB [H,W,3] of any sizes; one result each, in order.

        Raises:
            UserError: an array is not uint8 with three channels, or is empty.
        """
        for array in (images := list(map(np.asarray, images))):
            if array.dtype != np.uint8 or array.shape[2:] != (3,) or not array.size:
                raise UserError(
                    f"Expected an RGB picture, uint8 [H, W, 3]; found {array.dtype} "
                    f"{list(array.shape)}."
                )
        options = (self.tile, self.overlap, self.batch_size, self.threshold, self._share)
        tiled = TiledDetector(self._shrunk, *options)
        found = tiled.analyse(images) if self.tile else self._shrunk(images)
        for _ in range(len(found) if self.level else 0):  # One by one: maps can be large.
            score, heat_map, _ = found.pop(0)
            found.append(result_of(score, stretched(heat_map, self.level), self.threshold))
        return found

    def _shrunk(self, images: Sequence[np.ndarray]) -> list[Result]:
        """`analyse` without tiles and with maps as they are."""
        results = []
        heat_map = self.config.model.heat_map
        sigma = 0.0 if heat_map.colours else heat_map.sigma  # Else it is the model's to smooth.
        options: dict[str, Any] = {"canvas": self.geometry.canvas, "sigma": sigma}
        for part, prepared in self._batches(images):
            scores, maps = jax.device_get(self._analyse(self._weights, *_stacked(prepared)))
            for image, item, score, patch_map in zip(part, prepared, scores, maps, strict=False):
                heat_map = heat_map_of_picture(
                    patch_map, item.valid, resized=item.resized, original=image.shape[:2], **options
                )
                results.append(result_of(score, heat_map, self.threshold))
        return results

    def verdict(self, score: float) -> str:
        """`tampered`, `authentic`, or, with a calibration, `inconclusive`; see its `rule`."""
        return verdict(score, self.calibration)

    def edge_features(
        self, images: Sequence[np.ndarray], labels: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """HECL's features of each picture's top edge patches, as in the paper's Figure 7.

        Args:
            images: N pictures, uint8 RGB [H,W,3].
            labels: N of 0 (authentic) or 1 (tampered): which class's probability ranks the patches.

        Returns:
            features [N,L,K,D] float32 unit vectors, and usable [N,K] bool.

        Raises:
            UserError: the model was trained without HECL.
        """
        if not self.config.model.hecl.enabled:
            raise UserError("This checkpoint was trained without HECL: it has no edge features.")
        found, done = [], 0
        for part, prepared in self._batches(images):
            label = np.zeros(len(prepared), np.int32)
            label[: len(part)] = labels[done : done + len(part)]
            done += len(part)
            both = jax.device_get(self._edge_features(self._weights, *_stacked(prepared), label))
            found.append([array[: len(part)] for array in both])
        features, usable = map(np.concatenate, zip(*found, strict=True))
        return features, usable

    def _batches(
        self, images: Sequence[np.ndarray]
    ) -> Iterator[tuple[Sequence[np.ndarray], list[Preprocessed]]]:
        """Pictures, and their inputs filled up to one or a full batch: two shapes are compiled."""
        size = 1 if len(images) == 1 else self.batch_size
        for start in range(0, len(images), size):
            part = images[start : start + size]
            prepared = [preprocess(image, self.geometry, self.edge_options) for image in part]
            yield part, prepared + [prepared[-1]] * (size - len(part))


def _stacked(prepared: Sequence[Preprocessed]) -> list[np.ndarray]:
    """Images, edge maps and valid patches, all [B, ...]."""
    return [np.stack(arrays) for arrays in list(zip(*prepared, strict=True))[:3]]
