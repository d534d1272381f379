"""Pretrains the small CLIPs that come along: pictures and captions of their processing.

python -m sapl_jax.demo.pretrain --output sapl_jax/assets/clip_patch16
python -m sapl_jax.demo.pretrain --output sapl_jax/assets/clip_patch8 --patch 8 --width 96 \
    --canvas 64 --size 160 --pictures 5000 --steps 6000 --reach 1
python -m sapl_jax.demo.pretrain --output sapl_jax/assets/clip_photographs --photographs DIR \
    --start sapl_jax/assets/clip_patch16 --learning-rate 7.5e-4 --steps 6000

The pictures are generated, or real photographs taken again by the generator's cameras. It sees no
forgery, no mask and no label: captions say what a picture shows and how it was processed. The
commands made the shipped folders.
"""

import argparse
import functools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.tree_util import keystr, tree_map_with_path
from optax.contrib import MuonDimensionNumbers, muon

from data_pipelines.generator.photographs import open_library
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.clip.loading import load_clip
from sapl_jax.clip.model import CLIP
from sapl_jax.clip.weights import save_clip
from sapl_jax.demo import captioned_batches as batches
from sapl_jax.demo.objective import MAX_SCALE, build_clip, pretraining_loss, small_config
from sapl_jax.demo.vocabulary import Vocabulary
from sapl_jax.errors import Parser, UserError, check_numbers, run_main
from sapl_jax.files import make_output_folder

_REPORT_EVERY = 250  # steps


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = Parser("python -m sapl_jax.demo.pretrain", __doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write, in Hugging Face's format")
    add("--photographs", help="folder of real photographs: those of the train split are used")
    add("--start", help="go on from this folder's weights, of the same sizes, not from new ones")
    add("--pictures", type=int, default=8000, help="pictures to make")
    add("--size", type=int, default=192, help="side of a picture in pixels")
    add("--canvas", type=int, default=96, help="side of a training image in pixels")
    add("--patch", type=int, default=16, help="side of the ViT's patches in pixels")
    add("--width", type=int, default=128, help="of the ViT: a multiple of 4")
    add("--reach", type=int, default=0, help="patches see only patches so near; 0: everything")
    add("--steps", type=int, default=10000)
    add("--batch-size", type=int, default=16)
    add("--learning-rate", type=float, default=1.5e-3)
    add("--sheets", type=float, default=0.5, help="share of contact sheets among the images")
    add("--clip-weight", type=float, default=0.05, help="weight of the whole-image contrast")
    add("--patch-weight", type=float, default=1.0, help="weight of the patches' phrases")
    add("--seed", type=int, default=10**6, help="of the pictures and of everything else")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    return parser.parse_args()


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, AdamW for the rest, one cosine schedule for both.

    With AdamW alone the words for the noise are learned about four times slower.
    """
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(100, steps // 5), steps, learning_rate / 50
    )

    def dimensions(path: Any, leaf: jax.Array) -> MuonDimensionNumbers | None:
        # The blocks are stacked: [depth, inputs, outputs].
        of_blocks = leaf.ndim == 3 and "kernel" in keystr(path)
        return MuonDimensionNumbers((1,), (2,)) if of_blocks else None

    tx = muon(
        rate, weight_decay=0.02, adam_weight_decay=0.02, consistent_rms=0.2,
        muon_weight_dimension_numbers=functools.partial(tree_map_with_path, dimensions),
    )  # fmt: skip
    return optax.chain(optax.clip_by_global_norm(1.0), tx)


def main() -> None:
    """The command: generate, train, save."""
    flags = parse_arguments()
    counts = ("pictures", "size", "canvas", "patch", "width", "steps", "batch_size", "workers")
    others = ("seed", "reach", "learning_rate", "clip_weight", "patch_weight")
    limits = dict.fromkeys(counts, (1, 10**6)) | dict.fromkeys(others, (0, 10**9))
    check_numbers(flags, sheets=(0, 1), **limits)
    if flags.width % 4:
        raise UserError(f"--width {flags.width}: expected a multiple of 4")
    if flags.canvas % flags.patch or not flags.patch < flags.canvas <= flags.size:
        raise UserError(
            f"--canvas {flags.canvas}: expected --patch {flags.patch} twice or more, at most "
            f"--size {flags.size}"
        )
    vocabulary = Vocabulary(batches.WORDS)
    config = small_config(vocabulary.size, flags.canvas, flags.patch, flags.width)
    clip = load_clip(flags.start) if flags.start else None
    if clip and clip.config != config:
        raise UserError(f"--start {flags.start}: a CLIP of other sizes than this command's")
    photographs = open_library(flags.photographs).pictures if flags.photographs else ()
    properties = batches.LOCAL_OF_PHOTOGRAPHS if photographs else batches.LOCAL
    make_output_folder(flags.output)
    pictures = batches.make_pictures(
        flags.seed, flags.pictures, flags.size, flags.workers, photographs
    )
    clip = clip or build_clip(config, pictures.pixels, flags.seed)
    optimizer = nnx.Optimizer(clip, make_optimizer(flags.learning_rate, flags.steps), wrt=nnx.Param)
    phrases = batches.phrases(vocabulary, properties)
    rng = np.random.default_rng(flags.seed)
    shape = {"size": flags.batch_size, "canvas": flags.canvas, "patch": flags.patch}

    @nnx.jit
    def step(clip: CLIP, optimizer: nnx.Optimizer, batch: batches.Batch, chosen: jax.Array) -> dict:
        weights = (flags.patch_weight, flags.clip_weight)
        loss = functools.partial(
            pretraining_loss, weights=weights, properties=properties, reach=flags.reach
        )
        grads, parts = nnx.grad(loss, has_aux=True)(clip, batch, chosen)
        optimizer.update(clip, grads)
        return parts

    def next_batch() -> batches.Batch:
        return batches.make_batch(rng, pictures, vocabulary, sheets=flags.sheets, **shape)

    history, start = [], time.monotonic()
    with ThreadPoolExecutor(1) as pool, ProgressBar(total=flags.steps, unit="step") as bar:
        waiting = pool.submit(next_batch)
        for number in range(1, flags.steps + 1):
            batch, waiting = waiting.result(), pool.submit(next_batch)
            history.append(jax.device_get(step(clip, optimizer, batch, phrases[batch.template])))
            bar.update()
            if number % _REPORT_EVERY == 0 or number == flags.steps:
                summary = _summary(history, properties)
                bar.write(f"step {number}, {time.monotonic() - start:.0f} s: {summary}")
                history = []
    clip.logit_scale.set_value(jnp.minimum(clip.logit_scale[...], jnp.log(MAX_SCALE)))
    file = save_clip(clip, flags.output)
    vocabulary.save(flags.output)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB) and its tokenizer")


def _summary(history: list[dict[str, np.ndarray]], properties: Sequence[str]) -> str:
    means = {name: np.mean([parts[name] for parts in history], axis=0) for name in history[0]}
    last = zip(properties, means["accuracy"][:, -1], strict=True)
    accuracy = ", ".join(f"{name} {value:.2f}" for name, value in last)
    return (
        f"patches {means['patches']:.3f}, images {means['images']:.3f}; accuracy of the last "
        f"block's patches: {accuracy}"
    )


if __name__ == "__main__":
    run_main(main)
