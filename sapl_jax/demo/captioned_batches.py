"""Pretraining batches: crops and contact sheets of captioned photographs."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data_pipelines.generator.captions import CONTENT, HISTORY, captioned_picture
from data_pipelines.progress_bars import ProgressBar
from sapl_jax.demo.vocabulary import Vocabulary

# Properties that leave traces in every small part of a picture, and so hold for its patches too.
LOCAL = ("focus", "denoising", "resampling", "retouching", "grain")
LOCAL_OF_PHOTOGRAPHS = (*LOCAL, "sharpening", "compression")
PHRASES = (("a", "{}", "photo"), ("{}", "picture"), ("photograph", ",", "{}"))
PHRASE_LENGTH, CAPTION_LENGTH = 5, 13
_HISTORY_WORDS, _CONTENT_WORDS = 4, 4  # of each, at most, in one caption
_STEP = 8  # crops start on JPEG's grid
_OTHER = ("a", "photo", "picture", "photograph", "of", ",", "real", "fake")
WORDS = (*(word for words in HISTORY.values() for word in words), *CONTENT, *_OTHER)


class Pictures(NamedTuple):
    """pixels uint8 [N,S,S,3]; history int [N,P], the index of each property's word; content."""

    pixels: np.ndarray
    history: np.ndarray
    content: list[tuple[str, ...]]


class Batch(NamedTuple):
    """What one step sees.

    image: uint8 [B,C,C,3], crops or contact sheets. history: int32 [B,T,P], for each patch the
    words of its photograph. single: float32 [B], 1 where the image is a crop of one photograph.
    caption: int32 [B,CAPTION_LENGTH], of the (first) photograph. template: index into PHRASES.
    """

    image: np.ndarray
    history: np.ndarray
    single: np.ndarray
    caption: np.ndarray
    template: int


def make_pictures(
    seed: int, count: int, size: int, workers: int, photographs: tuple[Path, ...] = ()
) -> Pictures:
    """Makes `count` captioned pictures of size x size pixels in parallel: see captioned_picture."""
    pixels = np.empty((count, size, size, 3), np.uint8)
    history = np.empty((count, len(HISTORY)), np.int32)
    content = []
    make = partial(captioned_picture, seed, size=size, photographs=photographs)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        results = pool.map(make, range(count), chunksize=16)
        for n, found in enumerate(ProgressBar(results, total=count, desc="photographs")):
            pixels[n] = found.picture
            pairs = zip(HISTORY.values(), found.history, strict=True)
            history[n] = [words.index(word) for words, word in pairs]
            content.append(found.content)
    return Pictures(pixels, history, content)


def phrases(vocabulary: Vocabulary, properties: Sequence[str]) -> np.ndarray:
    """Ids of "a noisy photo" and the like: int32 [templates, words of the properties, N]."""
    words = [word for name in properties for word in HISTORY[name]]
    texts = [[[part.format(word) for part in phrase] for word in words] for phrase in PHRASES]
    ids = [[vocabulary.encode(text, PHRASE_LENGTH) for text in template] for template in texts]
    return np.array(ids, np.int32)


def make_batch(
    rng: np.random.Generator,
    pictures: Pictures,
    vocabulary: Vocabulary,
    *,
    size: int,
    canvas: int,
    patch: int,
    sheets: float,
) -> Batch:
    """A batch of `size` images of canvas x canvas pixels.

    `sheets` is the share of contact sheets: two to four crops of different photographs side by
    side, cut along the patch grid, each with the caption of its own photograph.
    """
    images, history, single, captions = [], [], [], []
    count, grid = len(pictures.pixels), canvas // patch
    for first in rng.integers(0, count, size):
        owner = np.zeros((grid, grid), np.int64)
        if rng.random() < sheets:
            row, column = rng.integers(1, grid, 2)
            layout = rng.integers(3)
            if layout != 1:
                owner[row:] += 1
            if layout != 0:
                owner[:, column:] += 1 if layout == 1 else 2
        chosen = np.append(first, rng.integers(0, count, owner.max()))
        image = _crop(rng, pictures.pixels[first], canvas).copy()
        pixel_owner = owner.repeat(patch, 0).repeat(patch, 1)
        for n, other in enumerate(chosen[1:], 1):
            inside = pixel_owner == n
            image[inside] = _crop(rng, pictures.pixels[other], canvas)[inside]
        images.append(image)
        history.append(pictures.history[chosen][owner.ravel()])
        single.append(float(len(chosen) == 1))
        captions.append(_caption(rng, pictures, vocabulary, first))
    return Batch(
        np.stack(images), np.stack(history), np.array(single, np.float32),
        np.array(captions, np.int32), int(rng.integers(len(PHRASES))),
    )  # fmt: skip


def _crop(rng: np.random.Generator, pixels: np.ndarray, canvas: int) -> np.ndarray:
    top, left = rng.integers(0, (pixels.shape[0] - canvas) // _STEP + 1, 2) * _STEP
    return pixels[top : top + canvas, left : left + canvas]


def _caption(
    rng: np.random.Generator, pictures: Pictures, vocabulary: Vocabulary, n: int
) -> list[int]:
    words = [list(HISTORY.values())[p][k] for p, k in enumerate(pictures.history[n])]
    history = list(rng.permutation(words)[:_HISTORY_WORDS])
    content = list(rng.permutation(list(pictures.content[n]))[:_CONTENT_WORDS])
    if rng.random() < 0.5:
        text = ["a", *history, "photo", "of", *content]
    else:
        text = ["photograph", ",", *content, ",", *history]
    return vocabulary.encode(text, CAPTION_LENGTH)
