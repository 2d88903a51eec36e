"""Drawing scenes: anti-aliased stamps of six shapes, blended onto a background, with noise.

Legend: N images, H = W = 64 pixels, S = 19 pixels of a stamp, C = 3 channels, G x K pixels of a glyph.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from lit_blip2.mini.world import SHAPES, Extra, Scene

PIXELS = 64
CENTRES = (11, 32, 52)  # of the three columns and rows
RADII = (5.0, 8.5)  # small, large
NOISE = 8.0  # standard deviation, of 255
_HALF, _FINE = 9, 4
_RGB = np.array(
    [
        (214, 40, 40),
        (46, 160, 67),
        (50, 84, 222),
        (238, 214, 54),
        (150, 56, 186),
        (244, 140, 32),
        (64, 204, 222),
        (244, 244, 244),
    ],
    dtype=np.float32,
)


def _digit(*rows: str) -> np.ndarray:
    """bool [G, K]: three times as large as it is written."""
    return np.kron([[each == "#" for each in row] for row in rows], np.ones((3, 3))) > 0


GLYPHS = {  # by the noun of an Extra
    "circle": np.ones((5, 2), dtype=bool),
    "0": _digit("###", "#.#", "#.#", "#.#", "###"),
    "1": _digit(".#.", "##.", ".#.", ".#.", "###"),
    "2": _digit("###", "..#", "###", "#..", "###"),
    "3": _digit("###", "..#", "###", "..#", "###"),
    "4": _digit("#.#", "#.#", "###", "..#", "..#"),
}


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where (x, y), in units of the radius and y downwards, lies inside the shape."""
    r, angle = np.hypot(x, y), np.arctan2(x, -y)
    if shape == "circle":
        return r <= 1
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.85
    if shape == "triangle":
        return (y <= 0.8) & (1.9 * abs(x) <= y + 1)
    if shape == "star":
        spike = np.abs((angle / (2 * np.pi / 5) + 0.5) % 1 - 0.5) * 2  # 0 on a tip, 1 between two
        return r <= 1.1 * 0.42 / (0.42 + 0.58 * spike)
    if shape == "cross":
        return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1)
    return (r <= 1) & (r >= 0.55)


@cache
def stamps() -> np.ndarray:
    """float32 [6, 2, S, S]: coverage of each pixel, from 4 x 4 samples."""
    n = 2 * _HALF + 1
    fine = (np.arange(n * _FINE) + 0.5) / _FINE - n / 2
    x, y = np.meshgrid(fine, fine)
    masks = [[_inside(s, x / r, y / r) for r in RADII] for s in SHAPES]
    cells = np.array(masks, dtype=np.float32).reshape(len(SHAPES), len(RADII), n, _FINE, n, _FINE)
    return cells.mean(axis=(3, 5))


@cache
def _backgrounds() -> np.ndarray:
    """float32 [4, H, W]: grey levels, dark, mid, a gradient and stripes."""
    x, y = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS))
    kinds = [0 * x + 40, 0 * x + 95, 25 + 85 * x / PIXELS, 55 + 30 * ((x + y) // 8 % 2)]
    return np.stack(kinds).astype(np.float32)


def render(scenes: Sequence[Scene], rng: np.random.Generator) -> np.ndarray:
    """uint8 [N, H, W, C]: the scenes drawn, with fresh brightness and pixel noise from `rng`."""
    x_NHWC = NOISE * rng.standard_normal((len(scenes), PIXELS, PIXELS, 3), dtype=np.float32)
    bright_N = rng.uniform(-12, 12, len(scenes)).astype(np.float32)
    for canvas, scene, bright in zip(x_NHWC, scenes, bright_N, strict=True):
        over = None if scene.extra is None else _written(scene.extra, canvas)
        canvas += (_backgrounds()[scene.background] + bright)[..., None]
        for o in scene.objects:
            top = CENTRES[o.row] + o.dy - _HALF
            left = CENTRES[o.column] + o.dx - _HALF
            patch = canvas[top : top + 2 * _HALF + 1, left : left + 2 * _HALF + 1]
            shade = _backgrounds()[scene.background, top : top + 2 * _HALF + 1, left : left + 2 * _HALF + 1]
            alpha = stamps()[o.shape, o.size][..., None]
            patch += alpha * (_RGB[o.colour] - shade[..., None] - bright)  # the noise stays on top
        if over is not None:
            canvas[over[0]] = over[1]
    return np.clip(np.rint(x_NHWC), 0, 255).astype(np.uint8)


def _written(extra: Extra, noise_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [H, W], where a thing is written over what lies there, and its pixels [number, C] with their noise."""
    glyph_GK = GLYPHS[extra.noun]
    where_HW = np.zeros((PIXELS, PIXELS), dtype=bool)
    where_HW[extra.y : extra.y + len(glyph_GK), extra.x : extra.x + glyph_GK.shape[1]] = glyph_GK
    return where_HW, noise_HWC[where_HW] + _RGB[extra.colour]
