"""Can a world be learned at all? A small convolutional net, trained *with masks*: the upper mark.

python -m benchmarks.learnable --train DIR --test DIR

Of small pictures with masks, as `python -m data_pipelines.generate` writes them. The net sees
pixels as they are and says of every cell of 16 pixels how likely it is inside the mask; it has
146,000 values, a sixth of clip_patch16's vision tower. What it does not find with masks no one
should expect from labels; what it finds and SAPL does not is lost in the backbone or for want of
masks. One JSON line per report: I-AUC of the mean of the tenth of a picture's cells that look most
tampered, and patch AUC in the band of the seam and over the mask, as in `benchmarks.seams`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.seams import CELL, cells, measure, read_truths
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
            x = jax.nn.relu(norm(convolution(x)))
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // side, side, width // side, side, channels).max((2, 4))
        return self.head(x)[..., 0]


class Pictures(NamedTuple):
    """Pictures of a data set at the top left of canvases of one size, a multiple of 16 pixels."""

    samples: Sequence[Sample]
    originals: list[np.ndarray]  # uint8 [H,W,3], each of its own size
    canvases: np.ndarray  # uint8 [N,H,W,3], grey beside the picture
    inside: np.ndarray  # float32 [N, H/16, W/16], the share of a cell that is inside the mask
    valid: np.ndarray  # float32 [N, H/16, W/16], 1 for cells that the picture fills


def read_pictures(folder: Path) -> Pictures:
    """Reads a data set. UserError if a picture is beyond 512 pixels: all are held in memory."""
    samples = read_dataset("folder", folder).samples
    originals = [read_image(sample.image) for sample in samples]
    side = -(-max(max(picture.shape[:2]) for picture in originals) // CELL)
    if side * CELL > 512:
        raise UserError(f"{folder}: found a picture of {side * CELL} pixels, expected 512 at most")
    canvases = np.full((len(samples), side * CELL, side * CELL, 3), 120, np.uint8)
    inside = np.zeros((len(samples), side, side), np.float32)
    valid = np.zeros_like(inside)
    for n, (sample, picture) in enumerate(zip(samples, originals, strict=True)):
        height, width = picture.shape[:2]
        rows, columns = height // CELL, width // CELL
        canvases[n, :height, :width], valid[n, :rows, :columns] = picture, 1
        if sample.label == TAMPERED and sample.mask:
            mask = load_mask(sample.mask, picture, sample.mask_style).grey
            inside[n, :rows, :columns] = cells((mask > 127).astype(np.uint8)).reshape(rows, columns)
    return Pictures(samples, originals, canvases, inside, valid)


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
    train, test = read_pictures(flags.train), read_pictures(flags.test)
    truths = read_truths(test.samples, test.originals)
    labels = np.array([sample.label == TAMPERED for sample in test.samples])
    net, rng = Net(flags.seed), np.random.default_rng(flags.seed)
    rate = optax.cosine_onecycle_schedule(flags.steps, 2e-3)
    optimizer = nnx.Optimizer(net, optax.adamw(rate, weight_decay=0.01), wrt=nnx.Param)

    @nnx.jit
    def step(net: Net, optimizer: nnx.Optimizer, pixels: Any, target: Any, valid: Any) -> jax.Array:
        def loss_of(net: Net) -> jax.Array:
            losses = optax.sigmoid_binary_cross_entropy(net(pixels), target)
            return jnp.sum(losses * valid) / jnp.sum(valid)

        loss, gradients = nnx.value_and_grad(loss_of)(net)
        optimizer.update(net, gradients)
        return loss

    @nnx.jit
    def infer(net: Net, pixels: Any) -> jax.Array:
        return net(pixels)

    def report(number: int, loss: float) -> str:
        net.eval()
        parts = np.split(test.canvases, range(_TEST_BATCH, len(labels), _TEST_BATCH))
        found = np.concatenate([np.asarray(infer(net, part)) for part in parts])
        net.train()
        scores, maps = [], []
        for cell, valid, picture in zip(found, test.valid, test.originals, strict=True):
            ordered = np.sort(cell[valid > 0])
            scores.append(ordered[-max(1, len(ordered) // SHARE) :].mean())
            large = cell.repeat(CELL, 0).repeat(CELL, 1)
            maps.append(large[: picture.shape[0], : picture.shape[1]])
        measured = {"i_auc": roc_auc(labels, np.array(scores)), **measure(iter(maps), truths)}
        return json.dumps({"step": number, "loss": loss, **measured})

    order = np.empty(0, int)
    with ProgressBar(total=flags.steps, unit="step") as bar:
        for number in range(1, flags.steps + 1):
            if len(order) < _BATCH:
                order = np.concatenate([order, rng.permutation(len(train.samples))])
            chosen, order = order[:_BATCH], order[_BATCH:]
            turn = np.s_[:, :: rng.choice((1, -1)), :: rng.choice((1, -1))]
            batch = (train.canvases, train.inside, train.valid)
            loss = step(net, optimizer, *(part[chosen][turn] for part in batch))
            bar.update()
            if number % flags.every == 0 or number == flags.steps:
                print(report(number, float(loss)), flush=True)


if __name__ == "__main__":
    run_main(main)
