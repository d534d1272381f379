"""Training data in memory: what the loop needs, without files."""

import numpy as np


class MemoryData:
    """Noise pictures whose tampered half has a bright square; a function of (seed, step)."""

    def __init__(self, batch_size: int = 4, classes: tuple[int, ...] = (0, 1)):
        self.num_train = 12
        self.batch_size = batch_size
        self.classes = classes

    def _batch(self, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        label = np.resize(np.asarray(self.classes, np.int32), self.batch_size)
        image = rng.integers(0, 128, (self.batch_size, 28, 28, 3), dtype=np.uint8)
        image[label == 1, 7:14, 7:14] = 250
        return {
            "image": image,
            "edge_map": rng.random((self.batch_size, 4, 4)).astype(np.float32),
            "valid": np.ones((self.batch_size, 4, 4), bool),
            "label": label,
        }

    def train_batches(self, start_step: int):
        step = start_step
        while True:
            yield self._batch(step)
            step += 1

    def val_batches(self):
        for seed in (1000, 1001):
            yield self._batch(seed) | {"weight": np.ones(self.batch_size, np.float32)}
