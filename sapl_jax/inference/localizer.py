"""`Localizer`: a trained SAPL that turns pictures into scores, heat maps and masks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines.preprocess import Geometry, Preprocessed, preprocess
from data_pipelines.soft_edges import EdgeOptions
from sapl_jax import devices
from sapl_jax.errors import UserError
from sapl_jax.inference.calibration import of_dict, verdict
from sapl_jax.inference.detector import Result, result_of
from sapl_jax.inference.opening import load_model
from sapl_jax.models.hecl import make_anchors, select_patches
from sapl_jax.models.localization import heat_map_of_picture
from sapl_jax.models.sapl import SAPL, score_and_patch_map
from sapl_jax.training.state import FrozenModel, PyTree, merge_model, split_model

_BATCH_PER_DEVICE = 8


class Localizer:
    """Scores, heat maps and masks of pictures of any size.

    Attributes:
        config: the configuration of the run the weights come from.
        geometry: size of the resized picture and of a patch, in pixels.
        source: where the weights come from: series and step of the checkpoint, CLIP's name and
            sha256, and the folder the weights were read from.
        calibration: what `sapl_jax.calibrate` found for these weights, or None.
        threshold: of the mask; the calibration's, or the configuration's.
    """

    def __init__(self, model: SAPL, config: ConfigDict, source: dict[str, Any]):
        """Places the model's weights on all local devices; `load` is the usual way in."""
        self.config = config
        self.source = source
        self.geometry = Geometry(config.image.size, model.clip.config.vision.patch_size)
        stored = source.get("calibration")
        self.calibration = of_dict(dict(stored)) if stored else None
        self.threshold: float = config.model.heat_map.threshold
        if self.calibration is not None:
            self.threshold = self.calibration.map_threshold
        self.edge_options = EdgeOptions.from_config(config.image)
        self.batch_size = _BATCH_PER_DEVICE * jax.local_device_count()
        self._mesh = Mesh(np.asarray(jax.local_devices()), (devices.AXIS,))
        params, frozen = split_model(model)
        self._weights: PyTree = devices.replicate((params, frozen.params), jax.local_devices())

        def analyse(weights: PyTree, *inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            sapl = merge_model(weights[0], FrozenModel(frozen.graph, weights[1]))
            return score_and_patch_map(sapl, *inputs)

        def edge_features(
            weights: PyTree,
            image: jax.Array,
            edge_map: jax.Array,
            valid: jax.Array,
            label: jax.Array,
        ) -> tuple[jax.Array, jax.Array]:
            sapl = merge_model(weights[0], FrozenModel(frozen.graph, weights[1]))
            outputs = sapl(image, edge_map, valid)
            hecl = config.model.hecl
            indices, usable = select_patches(
                outputs.similarity,
                sapl.scale,
                outputs.edge_map,
                valid.reshape(len(label), -1),
                top_k=hecl.top_k,
                use_edges=hecl.use_edges,
            )
            gives = jax.nn.one_hot(label, 2, dtype=bool)
            anchors = make_anchors(sapl.heads, outputs.embeddings, indices, usable, gives)
            own = jnp.take_along_axis(anchors.features, label[None, :, None, None, None], axis=2)[
                :, :, 0
            ]
            return jnp.swapaxes(own, 0, 1), usable

        self._analyse = devices.split_batch(analyse, self._mesh)
        self._edge_features = devices.split_batch(edge_features, self._mesh)

    @classmethod
    def load(
        cls, checkpoint: str | Path | None, *, dtype: str | None = None, which: str | None = None
    ) -> "Localizer":
        """A trained model from a training run's folder or from an export.

        Args:
            checkpoint: a work directory of `sapl_jax.train`, or a folder that
                `sapl_jax.export --format orbax` wrote; None: the demo's, with a warning.
            dtype: compute type, "float32" or "bfloat16"; None: the one the model was trained with
                ("auto" is bfloat16 where the hardware has it, else float32).
            which: of a run's checkpoints, "last", or "best" by validation I-AUC; None: what its
                configuration keeps (`train.keep`).

        Raises:
            UserError: nothing there, an export of another version, damaged files, or CLIP's weights
                are not those the run was trained on.
        """
        return cls(*load_model(checkpoint, dtype, which))

    def __call__(self, image: np.ndarray) -> Result:
        """Analyses one picture, uint8 RGB [H,W,3]."""
        return self.analyse([image])[0]

    def analyse(self, images: Sequence[np.ndarray]) -> list[Result]:
        """Analyses pictures, uint8 RGB [H,W,3] of any sizes; one result each, in order.

        Raises:
            UserError: an array is not uint8 with three channels.
        """
        results = []
        for prepared, originals, count in self._batches(images):
            batch = _stack(prepared)
            scores, maps = jax.device_get(self._analyse(self._weights, *self._place(batch)))
            for i in range(count):
                results.append(self._result(scores[i], maps[i], prepared[i], originals[i]))
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
        features, usable = [], []
        start = 0
        for prepared, _, count in self._batches(images):
            label = np.zeros(len(prepared), np.int32)
            label[:count] = labels[start : start + count]
            start += count
            arrays = self._place((*_stack(prepared), label))
            part, ok = jax.device_get(self._edge_features(self._weights, *arrays))
            features.append(part[:count])
            usable.append(ok[:count])
        return np.concatenate(features), np.concatenate(usable)

    def _batches(
        self, images: Sequence[np.ndarray]
    ) -> Iterator[tuple[list[Preprocessed], list[tuple[int, int]], int]]:
        """Preprocessed batches of two shapes only, one picture or a full batch: two compiles."""
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"Expected an RGB picture, uint8 [H, W, 3]; found {image.dtype} "
                    f"{list(image.shape)}."
                )
        size = 1 if len(images) == 1 else self.batch_size
        for start in range(0, len(images), size):
            part = images[start : start + size]
            prepared = [preprocess(image, self.geometry, self.edge_options) for image in part]
            padded = prepared + [prepared[-1]] * (size - len(part))
            yield padded, [image.shape[:2] for image in part], len(part)

    def _place(self, arrays: Sequence[np.ndarray]) -> Sequence[jax.Array]:
        spread = len(arrays[0]) % self._mesh.size == 0
        spec = PartitionSpec(devices.AXIS) if spread else PartitionSpec()
        return jax.device_put(tuple(arrays), NamedSharding(self._mesh, spec))

    def _result(
        self, score: float, patch_map: np.ndarray, prepared: Preprocessed, size: tuple[int, int]
    ) -> Result:
        options = self.config.model.heat_map
        heat_map = heat_map_of_picture(
            patch_map,
            prepared.valid,
            canvas=self.geometry.canvas,
            resized=prepared.resized,
            original=size,
            sigma=options.sigma,
        )
        return result_of(score, heat_map, self.threshold)


def _stack(prepared: Sequence[Preprocessed]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        np.stack([p.image for p in prepared]),
        np.stack([p.edge_map for p in prepared]),
        np.stack([p.valid for p in prepared]),
    )
