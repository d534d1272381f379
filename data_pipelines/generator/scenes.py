"""Procedural scenes: what stands before the camera, in linear light, with a caption's words."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from data_pipelines.generator import textures
from data_pipelines.generator.textures import MATERIALS, blend, floats, fractal_noise, random_colour


@dataclass
class Scene:
    """A scene: `radiance` float32 [H, W, 3] in [0, 1], the words for it, masks of its objects.

    `objects` are uint8 [H, W], 255 inside; only those worth removing or copying.
    """

    radiance: np.ndarray
    words: list[str] = field(default_factory=list)
    objects: list[np.ndarray] = field(default_factory=list)

    def paint(self, polygons: list[np.ndarray], material: np.ndarray, name: str | None) -> None:
        """Paints polygons (float [N, 2] x, y) with a colour [3] or a picture [H, W, 3]."""
        mask = np.zeros(self.radiance.shape[:2], np.uint8)
        fixed = [np.round(points * 16).astype(np.int32) for points in polygons]
        cv2.fillPoly(mask, fixed, 255, lineType=cv2.LINE_AA, shift=4)
        self.paint_mask(mask, material, name)

    def paint_mask(self, mask: np.ndarray, material: np.ndarray, name: str | None) -> None:
        """Paints where mask (uint8 [H, W]) is set; a `name` makes it an object."""
        left, top, wide, tall = cv2.boundingRect(mask)
        if not wide or not tall:
            return
        window = np.s_[top : top + tall, left : left + wide]
        if material.ndim == 3:
            material = material[window]
        weight = mask[window].astype(np.float32) / 255
        self.radiance[window] = blend(weight, self.radiance[window], material)
        if name is not None:
            if name not in self.words:
                self.words.append(name)
            if 0.01 < wide * tall / mask.size < 0.4:
                self.objects.append(mask)


def blob(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> np.ndarray:
    """A smooth closed outline, float32 [48, 2]: a circle with a few random harmonics, stretched."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    outline = np.ones_like(angle)
    for harmonic in range(2, 6):
        strength = rng.uniform(0, 0.45) / harmonic
        outline += strength * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    stretch = np.exp(rng.uniform(-0.35, 0.35))
    x = centre[0] + radius * stretch * outline * np.cos(angle)
    y = centre[1] + radius / stretch * outline * np.sin(angle)
    return np.stack([x, y], axis=1).astype(np.float32)


def _sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A vertical gradient with clouds of fractal noise, float32 [height, width, 3]."""
    zenith = floats([0.12, 0.25, 0.55]) * rng.uniform(0.5, 1.4)
    horizon = floats([0.6, 0.65, 0.7]) * rng.uniform(0.7, 1.3)
    if rng.random() < 0.25:
        horizon = floats([0.8, 0.45, 0.2]) * rng.uniform(0.6, 1.1)
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, axis=1)
    picture = blend(fall, zenith, horizon)
    cover = rng.uniform(-0.2, 0.5)
    clouds = fractal_noise(rng, height, width, rng.uniform(0.35, 0.55), 2)
    return blend(np.clip((clouds - 0.6 + cover) * 2.5, 0, 1), picture, floats([0.85, 0.85, 0.87]))


def _ridge(rng: np.random.Generator, level: float, relief: float, scene: Scene) -> np.ndarray:
    """The polygon below a fractal skyline at `level` (share of the height)."""
    height, width = scene.radiance.shape[:2]
    line = fractal_noise(rng, 2, width, rng.uniform(0.35, 0.5), 4)[0]
    y = height * (level + relief * (line - 0.5))
    x = np.arange(width, dtype=np.float32)
    return np.concatenate([np.stack([x, y], 1), [[width, height], [0, height]]], dtype=np.float32)


def _tree(rng: np.random.Generator, scene: Scene, foot: tuple[float, float], size: float) -> None:
    """A branching tree: recursive branches, then leaves as many small discs of varied green."""
    shape = scene.radiance.shape[:2]
    wood, leaves, tips = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), []
    stack = [(foot[0], foot[1], -np.pi / 2, size * 0.34, 6)]
    while stack:
        x, y, angle, length, depth = stack.pop()
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        start, stop = (16 * np.array([(x, y), end])).astype(int)
        cv2.line(wood, start, stop, 255, max(1, int(size * 0.012 * depth)), cv2.LINE_AA, 4)
        if depth <= 2:
            tips.append(end)
        if depth > 1:
            for side in (-1, 1):
                turn = side * rng.uniform(0.2, 0.65) + rng.normal(0, 0.1)
                stack.append((*end, angle + turn, length * rng.uniform(0.65, 0.85), depth - 1))
    for tip in tips:
        for centre in tip + rng.normal(0, size * 0.045, (4, 2)):
            radius = int(16 * size * rng.uniform(0.012, 0.035))
            cv2.circle(leaves, (16 * centre).astype(int), radius, 255, -1, cv2.LINE_AA, 4)
    scene.paint_mask(wood, floats([0.07, 0.05, 0.035]) * np.float32(rng.uniform(0.5, 2)), None)
    shade = fractal_noise(rng, shape[0], shape[1], 0.95, 24)
    light = floats([0.2, 0.36, 0.06]) * rng.uniform(0.6, 1.5)
    if rng.random() < 0.2:
        light = floats([0.5, 0.2, 0.05])
    scene.paint_mask(leaves, blend(shade, floats([0.02, 0.06, 0.015]), light), "trees")


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return floats([[left, top], [right, top], [right, bottom], [left, bottom]])


def landscape(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Sky, hills, a foreground material, trees, perhaps a lake."""
    scene = Scene(_sky(rng, height, width), ["landscape", "sky"])
    level = rng.uniform(0.3, 0.6)
    for _ in range(int(rng.integers(1, 4))):
        hill = (textures.stone if rng.random() < 0.4 else textures.grass)(rng, height, width)
        scene.paint([_ridge(rng, level, rng.uniform(0.1, 0.35), scene)], hill, "hills")
        level += rng.uniform(0.08, 0.2)
    if rng.random() < 0.35:
        scene.paint([_ridge(rng, level, 0.03, scene)], textures.water(rng, height, width), "water")
    for _ in range(int(rng.integers(0, 4))):
        foot = (rng.uniform(0, width), height * rng.uniform(0.7, 1.0))
        _tree(rng, scene, foot, height * rng.uniform(0.25, 0.7))
    return scene


def city(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Sky, buildings with rows of windows, a street."""
    scene = Scene(_sky(rng, height, width), ["city", "sky"])
    ground = height * rng.uniform(0.8, 0.95)
    x = -rng.uniform(0, 0.2) * width
    while x < width:
        wide, tall = width * rng.uniform(0.15, 0.4), height * rng.uniform(0.3, 0.85)
        top, right = ground - tall, x + wide
        style = [textures.plaster, textures.brick, textures.stone][int(rng.integers(3))]
        scene.paint([_box(x, top, right, ground)], style(rng, height, width), "buildings")
        step_x, step_y = rng.uniform(9, 22), rng.uniform(11, 26)
        glass = random_colour(rng, 0.02, 0.3)
        panes = [
            _box(left, row, left + step_x * 0.55, row + step_y * 0.6)
            for row in np.arange(top + step_y / 2, ground - step_y, step_y)
            for left in np.arange(x + step_x / 3, right - step_x * 0.7, step_x)
        ]
        if panes:
            scene.paint(panes, glass * rng.uniform(0.7, 1.3), "windows")
        x = right + (0 if rng.random() < 0.6 else rng.uniform(0, 0.1) * width)
    street = textures.gravel(rng, height, width) * 0.6
    scene.paint([_box(0, ground, width, height)], street, "street")
    for _ in range(int(rng.integers(0, 2))):
        _tree(rng, scene, (rng.uniform(0, width), height), height * rng.uniform(0.3, 0.6))
    return scene


def table(rng: np.random.Generator, height: int, width: int) -> Scene:
    """A still life: a wall, a table top, shaded round things and boxes."""
    names = sorted(MATERIALS)
    scene = Scene(textures.plaster(rng, height, width), ["table", "wall"])
    edge = height * rng.uniform(0.2, 0.55)
    top = [textures.wood, textures.cloth, textures.stone][int(rng.integers(3))]
    scene.paint([_box(0, edge, width, height)], top(rng, height, width), None)
    for _ in range(int(rng.integers(2, 6))):
        radius = height * rng.uniform(0.07, 0.2)
        centre = (rng.uniform(0, width), rng.uniform(edge, height))
        if rng.random() < 0.6:
            outline, name = blob(rng, centre, radius), "balls"
        else:
            turn = cv2.boxPoints((centre, (2 * radius, 1.5 * radius), rng.uniform(0, 90)))
            outline, name = turn.astype(np.float32), "boxes"
        material = MATERIALS[names[int(rng.integers(len(names)))]](rng, height, width)
        y, x = np.mgrid[:height, :width].astype(np.float32)
        light = 1.1 - 0.5 * ((x - centre[0]) + (y - centre[1])) / (2 * radius)
        shadow = outline + np.float32(radius * 0.15)
        scene.paint([shadow], floats([0.03, 0.03, 0.03]), None)
        scene.paint([outline], material * np.clip(light, 0.2, 1.6)[..., None], name)
    return scene


def page(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Paper with lines of strokes that look like text, and sometimes a figure."""
    paper = textures.plaster(rng, height, width)
    paper = paper / paper.mean() * rng.uniform(0.45, 0.8)
    scene = Scene(paper.astype(np.float32), ["page", "text"])
    ink, x_height = np.zeros((height, width), np.uint8), rng.uniform(5, 12)
    y = rng.uniform(8, 20)
    while y < height - 6:
        x = rng.uniform(6, 20)
        while x < width - 10:
            count = 3 * int(rng.integers(2, 9))  # of strokes in a word
            steps_x = x + np.cumsum(rng.uniform(0, x_height * 0.35, count))
            steps_y = y + rng.uniform(-x_height / 2, x_height / 2, count)
            points = (16 * np.stack([steps_x, steps_y], 1)).astype(np.int32)
            cv2.polylines(ink, [points], False, 255, 1, cv2.LINE_AA, 4)
            x = steps_x[-1] + x_height * rng.uniform(0.5, 1.0)
        y += x_height * rng.uniform(1.7, 2.2)
    scene.paint_mask(ink, random_colour(rng, 0.01, 0.08), None)
    if rng.random() < 0.6:
        centre = (width * rng.uniform(0.2, 0.8), height * rng.uniform(0.2, 0.8))
        box = cv2.boxPoints((centre, (width * rng.uniform(0.2, 0.45), height * 0.3), 0))
        scene.paint([box.astype(np.float32)], landscape(rng, height, width).radiance, "figure")
    return scene


def closeup(rng: np.random.Generator, height: int, width: int) -> Scene:
    """One material fills the frame under uneven light, with a few things lying on it."""
    names = sorted(MATERIALS)
    name = names[int(rng.integers(len(names)))]
    shade = 0.5 + fractal_noise(rng, height, width, 0.3, 2)
    scene = Scene(MATERIALS[name](rng, height, width) * shade[..., None], ["closeup", name])
    for _ in range(int(rng.integers(0, 4))):
        other = names[int(rng.integers(len(names)))]
        centre = (rng.uniform(0, width), rng.uniform(0, height))
        outline = blob(rng, centre, height * rng.uniform(0.08, 0.22))
        scene.paint([outline], MATERIALS[other](rng, height, width), "pieces")
    return scene


KINDS = (landscape, city, table, page, closeup)
_ODDS = (0.28, 0.2, 0.22, 0.1, 0.2)


def render_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draws one scene of a random kind; radiance float32 [height, width, 3] in [0, 1]."""
    scene = KINDS[int(rng.choice(len(KINDS), p=_ODDS))](rng, height, width)
    np.clip(scene.radiance, 0.0, 1.0, out=scene.radiance)
    return scene
