"""Procedural materials: linear-light pictures [H, W, 3] of wood, stone, cloth and others."""

import cv2
import numpy as np


def floats(values: list) -> np.ndarray:
    """A list of numbers as a float32 array."""
    return np.array(values, np.float32)


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, persistence: float = 0.5, cells: int = 3
) -> np.ndarray:
    """Sum of octaves of smooth noise, float32 [height, width] scaled to [0, 1].

    persistence: amplitude ratio of one octave to the next coarser one, the spectrum's slope.
    cells: along the longer side, in the first octave.
    """
    total = np.zeros((height, width), np.float32)
    amplitude, longer = 1.0, max(height, width)
    while cells < longer:
        shape = (max(2, cells * height // longer), max(2, cells * width // longer))
        grid = rng.standard_normal(shape, dtype=np.float32)
        total += amplitude * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        amplitude *= persistence
        cells *= 2
    total += amplitude * rng.standard_normal((height, width), dtype=np.float32)
    low, high = float(total.min()), float(total.max())
    return (total - low) / (high - low + 1e-6)


def random_colour(rng: np.random.Generator, low: float = 0.05, high: float = 0.8) -> np.ndarray:
    """A linear-light colour, float32 [3]: grey of random level with a random tint."""
    level = np.exp(rng.uniform(np.log(low), np.log(high)))
    tint = 1.0 + rng.uniform(0.0, 0.6) * rng.standard_normal(3)
    return np.clip(level * tint, 0.01, 0.95).astype(np.float32)


def blend(weight: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """`first` where weight [H, W] is 0, `second` where it is 1; colours [3] or pictures."""
    return (first + weight[..., None] * (second - first)).astype(np.float32)


def _coordinates(height: int, width: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates turned by `angle` radians, two float32 [height, width]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cosine, sine = floats([np.cos(angle), np.sin(angle)])
    return x * cosine + y * sine, y * cosine - x * sine


def plaster(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A painted wall: one colour, faint fractal stains."""
    stains = fractal_noise(rng, height, width, rng.uniform(0.4, 0.75))
    return random_colour(rng) * (0.85 + 0.3 * stains[..., None])


def stone(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Rough rock: strong noise at every scale."""
    noise = fractal_noise(rng, height, width, rng.uniform(0.65, 0.9), int(rng.integers(3, 9)))
    return blend(noise, random_colour(rng, 0.03, 0.2), random_colour(rng, 0.3, 0.8))


def wood(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Grain: distorted stripes along a random direction."""
    along, across = _coordinates(height, width, rng.uniform(0, np.pi))
    warp = fractal_noise(rng, height, width, 0.45)
    period = rng.uniform(6, 22)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * across / period + 9 * warp + 0.01 * along)
    fibre = fractal_noise(rng, height, width, 0.85, 16)
    dark = floats([0.16, 0.08, 0.04]) * rng.uniform(0.6, 1.6)
    light = floats([0.5, 0.3, 0.16]) * rng.uniform(0.6, 1.4)
    return blend(0.7 * rings + 0.3 * fibre, dark, light)


def cloth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A woven fabric: two crossing thread patterns, sometimes checked."""
    along, across = _coordinates(height, width, rng.uniform(0, np.pi))
    period = rng.uniform(3.0, 9.0)
    weave = np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period)
    folds = fractal_noise(rng, height, width, 0.35)
    colour = random_colour(rng, 0.08, 0.7)
    picture = colour * (0.75 + 0.12 * weave + 0.4 * folds)[..., None]
    if rng.random() < 0.5:
        square = rng.uniform(16, 48)
        check = ((along // square + across // square) % 2).astype(np.float32)
        picture = blend(0.8 * check, picture, random_colour(rng, 0.08, 0.7))
    return picture.astype(np.float32)


def brick(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall of bricks, each of its own shade, with mortar lines."""
    brick_height, brick_width = rng.uniform(8, 22), rng.uniform(20, 48)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    row = (y / brick_height).astype(int)
    shifted = x + (row % 2).astype(np.float32) * brick_width / 2
    shades = rng.uniform(0.6, 1.4, (64, 64)).astype(np.float32)
    shade = shades[row % 64, (shifted / brick_width).astype(int) % 64]
    seam = np.minimum(y % brick_height, shifted % brick_width)
    rough = fractal_noise(rng, height, width, 0.8, 12)
    colour = floats([0.4, 0.16, 0.09]) * rng.uniform(0.5, 1.5)
    if rng.random() < 0.4:
        colour = random_colour(rng, 0.1, 0.6)
    faces = colour * (shade * (0.7 + 0.6 * rough))[..., None]
    mortar = random_colour(rng, 0.2, 0.6)
    return blend((seam < rng.uniform(1.0, 2.5)).astype(np.float32), faces, mortar)


def water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ripples that shrink towards the top, as towards a horizon."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    depth = 1.0 / (0.08 + y / height)
    warp = fractal_noise(rng, height, width, 0.6, 6)
    waves = np.sin(depth * rng.uniform(14, 30) + 7 * warp + 0.02 * x)
    deep = floats([0.03, 0.1, 0.16]) * rng.uniform(0.6, 1.8)
    bright = floats([0.35, 0.5, 0.6]) * rng.uniform(0.6, 1.4)
    return blend(np.clip(0.35 + 0.25 * waves + 0.4 * (warp - 0.5), 0, 1), deep, bright)


def grass(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Short strokes of green: noise stretched along the vertical."""
    short = rng.standard_normal((max(2, height // 5), width), dtype=np.float32)
    blades = cv2.resize(short, (width, height), interpolation=cv2.INTER_CUBIC)
    patches = fractal_noise(rng, height, width, 0.6, 4)
    dark = floats([0.03, 0.07, 0.01]) * rng.uniform(0.7, 1.8)
    light = floats([0.24, 0.38, 0.09]) * rng.uniform(0.6, 1.5)
    return blend(np.clip(0.45 + 0.2 * blades + 0.6 * (patches - 0.5), 0, 1), dark, light)


def gravel(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Pebbles: cells around random points, each of its own grey, dark at the gaps."""
    count = int(rng.integers(150, 500))
    seeds = np.full((height, width), 255, np.uint8)
    seeds[rng.integers(0, height, count), rng.integers(0, width, count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    shade = rng.uniform(0.3, 1.2, labels.max() + 1).astype(np.float32)[labels]
    round_off = np.clip(1.15 - distance / np.sqrt(height * width / count), 0.15, 1.0)
    fine = 0.8 + 0.4 * fractal_noise(rng, height, width, 0.9, 24)
    return random_colour(rng, 0.15, 0.6) * (shade * round_off * fine)[..., None]


_ALL = (plaster, stone, wood, cloth, brick, water, grass, gravel)
MATERIALS = {make.__name__: make for make in _ALL}
