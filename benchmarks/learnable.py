"""Can a world be learned at all? A small convolutional net, trained *with masks*: the upper mark.

python -m benchmarks.learnable --train DIR --test DIR

Of pictures of one size with masks, as `python -m data_pipelines.generate` writes them. The net sees
pixels as they are and says of every cell of 16 pixels how likely it is inside the mask; it has a
tenth of the values of the demo's CLIP. What it does not find with masks no one should expect from
labels; what it finds and SAPL does not is lost in the backbone or for want of masks. One JSON line
per report: I-AUC of the mean of the tenth of a picture's cells that look most tampered, and patch
AUC in the band of the seam and over the mask, as in `benchmarks.seams`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.seams import CELL, measure, read_truths
from data_pipelines.images import read_image
from data_pipelines.listing import TAMPERED, Sample
from data_pipelines.masks import load_mask
from data_pipelines.progress_bars import ProgressBar
from data_pipelines.readers import read_dataset
from sapl_jax.errors import Parser, UserError, check_numbers, run_main
from sapl_jax.metrics import roc_auc

# Of the 3 x 3 convolutions: width, and side of the squares that are then replaced by their maxima.
LAYERS = ((16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 4), (128, 1))
SHARE = 10  # a picture's score is the mean of a tenth of its cells
_BATCH, _TEST_BATCH = 16, 50


class Net(nnx.Module):
    """Convolutions with batch norm and maxima between them: one value for a cell of 16 pixels."""

    def __init__(self, seed: int):
        rngs, width = nnx.Rngs(seed), 3
        self.convolutions: nnx.List[nnx.Conv] = nnx.List()
        self.norms: nnx.List[nnx.BatchNorm] = nnx.List()
        for out, _ in LAYERS:
            self.convolutions.append(nnx.Conv(width, out, (3, 3), use_bias=False, rngs=rngs))
            self.norms.append(nnx.BatchNorm(out, momentum=0.9, rngs=rngs))
            width = out
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Pictures, uint8 [B,H,W,3], to logits, float32 [B, H/16, W/16]."""
        x = (pixels.astype(jnp.float32) - 120) / 60
        for convolution, norm, (_, side) in zip(self.convolutions, self.norms, LAYERS, strict=True):
            x = nnx.max_pool(jax.nn.relu(norm(convolution(x))), (side, side), (side, side))
        return self.head(x)[..., 0]


def read_folder(folder: Path) -> tuple[list[Sample], np.ndarray]:
    """Samples and their pictures, uint8 [N,H,W,3]. UserError unless all are of one size."""
    samples = read_dataset("folder", folder).samples
    pictures = [read_image(sample.image) for sample in samples]
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) != 1 or any(side % CELL for side in min(sizes)):
        raise UserError(
            f"{folder}: found pictures of {len(sizes)} sizes, the smallest {min(sizes)}; expected "
            f"one size, a multiple of {CELL}, as `generate` writes"
        )
    return samples, np.stack(pictures)


def shares(samples: list[Sample], pictures: np.ndarray) -> np.ndarray:
    """Which share of every cell is inside the mask: float32 [N, H/16, W/16], 0 if authentic."""
    height, width = (side // CELL for side in pictures.shape[1:3])
    found = np.zeros((len(samples), height, width), np.float32)
    for share, sample, picture in zip(found, samples, pictures, strict=True):
        if sample.label == TAMPERED and sample.mask:
            inside = load_mask(sample.mask, picture, sample.mask_style).grey > 127
            share[:] = inside.reshape(height, CELL, width, CELL).mean((1, 3))
    return found


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("python -m benchmarks.learnable", __doc__)
    parser.add_argument(
        "--train", type=Path, required=True, help="pictures with masks, Au/ Tp/ Gt/"
    )
    parser.add_argument("--test", type=Path, required=True, help="others of the same kind")
    parser.add_argument("--steps", type=int, default=1500, help=f"of {_BATCH} pictures")
    parser.add_argument("--every", type=int, default=250, help="steps between reports")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    check_numbers(arguments, steps=(1, 10**9), every=(1, 10**9))
    return arguments


def main() -> None:
    """The command: train, measure, print."""
    flags = parse_arguments()
    samples, pictures = read_folder(flags.train)
    test_samples, test_pictures = read_folder(flags.test)
    targets, truths = shares(samples, pictures), read_truths(test_samples, list(test_pictures))
    labels = np.array([sample.label == TAMPERED for sample in test_samples])
    net, rng = Net(flags.seed), np.random.default_rng(flags.seed)
    rate = optax.cosine_onecycle_schedule(flags.steps, 2e-3)
    optimizer = nnx.Optimizer(net, optax.adamw(rate, weight_decay=0.01), wrt=nnx.Param)

    @nnx.jit
    def step(net: Net, optimizer: nnx.Optimizer, pixels: Any, target: Any) -> jax.Array:
        def loss_of(net: Net) -> jax.Array:
            return jnp.mean(optax.sigmoid_binary_cross_entropy(net(pixels), target))

        loss, gradients = nnx.value_and_grad(loss_of)(net)
        optimizer.update(net, gradients)
        return loss

    @nnx.jit
    def infer(net: Net, pixels: Any) -> jax.Array:
        return net(pixels)

    def report(number: int, loss: float) -> str:
        net.eval()
        parts = np.split(test_pictures, range(_TEST_BATCH, len(test_pictures), _TEST_BATCH))
        found = np.concatenate([np.asarray(infer(net, part)) for part in parts])
        net.train()
        ordered = np.sort(found.reshape(len(found), -1), axis=1)
        scores = ordered[:, -max(1, ordered.shape[1] // SHARE) :].mean(axis=1)
        maps = (cell.repeat(CELL, 0).repeat(CELL, 1) for cell in found)
        measured = {"i_auc": roc_auc(labels, scores), **measure(maps, truths)}
        return json.dumps({"step": number, "loss": loss, **measured})

    order = np.empty(0, int)
    with ProgressBar(total=flags.steps, unit="step") as bar:
        for number in range(1, flags.steps + 1):
            if len(order) < _BATCH:
                order = np.concatenate([order, rng.permutation(len(samples))])
            chosen, order = order[:_BATCH], order[_BATCH:]
            turn = np.s_[:, :: rng.choice((1, -1)), :: rng.choice((1, -1))]
            loss = step(net, optimizer, pictures[chosen][turn], targets[chosen][turn])
            bar.update()
            if number % flags.every == 0 or number == flags.steps:
                print(report(number, float(loss)), flush=True)


if __name__ == "__main__":
    run_main(main)
