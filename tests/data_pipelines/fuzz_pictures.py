"""Mutates small pictures of every format and decodes them; a crash kills this process.

python -m tests.data_pipelines.fuzz_pictures --count 10000 --seed 0 --keep FOLDER

The input about to be decoded lies in FOLDER/current, so after a crash that file is the finding.
"""

import argparse
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.images import UnreadableImage, decode_image, oddities, read_mask
from tests.data_pipelines.picture_trees import noise

MAX_PIXELS = 1_000_000
SLOW_S = 10.0
VALUES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff"]


def originals() -> dict[str, bytes]:
    """Small valid files: every format we read, in colour, grey, deep and palette variants."""
    colour = noise(0, 24, 30)
    pictures = {"colour": colour, "grey": colour[..., 0], "thin": noise(1, 40, 40)[:, :2]}
    files = {}
    for name, pixels in pictures.items():
        for suffix in (".jpg", ".png", ".tif", ".bmp", ".webp"):
            files[name + suffix] = cv2.imencode(suffix, pixels)[1].tobytes()
    deep = colour.astype(np.uint16) * 257
    alpha = np.dstack([colour, colour[..., 0]])
    for suffix in (".png", ".tif"):
        files["deep" + suffix] = cv2.imencode(suffix, deep)[1].tobytes()
        files["alpha" + suffix] = cv2.imencode(suffix, alpha)[1].tobytes()
    for code in (1, 5, 8):  # no compression, LZW, deflate
        option = [cv2.IMWRITE_TIFF_COMPRESSION, code]
        files[f"tiff{code}.tif"] = cv2.imencode(".tif", colour, option)[1].tobytes()
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
    files["progressive.jpg"] = cv2.imencode(".jpg", colour, progressive)[1].tobytes()
    return files


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bits, bytes, numbers, cuts, insertions, repeats, parts of `other`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        if not out:
            break
        # Half of the changes go to the first bytes, where the structure is.
        at = rng.randrange(min(len(out), 128)) if rng.random() < 0.5 else rng.randrange(len(out))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            value = rng.choice(VALUES)
            out[at : at + len(value)] = value
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + rng.randrange(1, 32)]
        elif kind == 5:
            out[at:at] = out[at : at + rng.randrange(1, 64)] * rng.randrange(1, 4)
        else:
            start = rng.randrange(len(other))
            out[at:at] = other[start : start + rng.randrange(1, 64)]
    return bytes(out)


def main(count: int, seed: int, keep: Path) -> None:
    """Decodes `count` mutations; prints a JSON line of outcomes; raises on any other outcome."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    memory = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    rng = random.Random(seed)
    files = originals()
    for name, data in files.items():
        assert decode_image(data, name).shape[2] == 3, name
    names = sorted(files)
    keep.mkdir(parents=True, exist_ok=True)
    current = keep / "current"
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(count):
        name = rng.choice(names)
        data = mutate(files[name], files[rng.choice(names)], rng)
        current.write_bytes(data)
        start = time.monotonic()
        for what, read in (("picture", decode_image), ("mask", None)):
            try:
                if read is None:
                    pixels = read_mask(current, MAX_PIXELS)
                    assert pixels.ndim == 2
                else:
                    pixels = read(data, name, MAX_PIXELS)
                    assert pixels.ndim == 3 and pixels.shape[2] == 3
                assert pixels.dtype == np.uint8 and 0 < pixels.size <= 3 * MAX_PIXELS
                outcomes[f"{what} decoded"] += 1
            except UnreadableImage:
                outcomes[f"{what} refused"] += 1
        oddities(data)
        slowest = max(slowest, time.monotonic() - start)
        assert slowest < SLOW_S, f"{name} took {slowest} s"
    current.unlink()
    print(json.dumps({"count": count, "slowest_s": round(slowest, 3), **outcomes}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, required=True)
    arguments = parser.parse_args()
    main(arguments.count, arguments.seed, arguments.keep)
