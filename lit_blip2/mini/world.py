"""Scenes of the mini-world as data: which objects, where, on what background, and the colour-swapped partner.

A scene is a pure function of (seed, stream, index). Splits never share a scene graph, colour swaps included:
a graph belongs to one of eight buckets by a checksum that a swap leaves alone; a stream draws from its own.
"""

import itertools
import zlib
from typing import NamedTuple

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
N_BACKGROUNDS = 4
JITTER = 2  # pixels either way
OBJECT_COUNTS = (1, 2, 3, 4)
# A lone object's caption is the likeliest to be true of another scene: rarest.
COUNT_SHARES = (0.08, 0.25, 0.33, 0.34)

_TRAIN, _VAL, _TEST = (0, 1, 2, 3, 4, 5), (6,), (7,)
N_BUCKETS = 8
# stream -> (number that enters the seed, buckets); the last four are for the frozen models.
STREAMS = {
    "train": (0, _TRAIN),
    "val": (1, _VAL),
    "test": (2, _TEST),
    "text": (3, _TRAIN),
    "text_check": (4, _VAL),
    "picture": (5, _TRAIN),
    "picture_check": (6, _VAL),
}


class Object(NamedTuple):
    """One object; all fields are indices into SHAPES, COLOURS, SIZES, PLACES, and jitter in pixels."""

    shape: int
    colour: int
    size: int
    cell: int
    dx: int
    dy: int

    @property
    def row(self) -> int:
        return self.cell // 3

    @property
    def column(self) -> int:
        return self.cell % 3


class Extra(NamedTuple):
    """A small thing beside the objects, see extras.py: what it is called, an index into COLOURS, and the pixel in its
    upper left corner."""

    noun: str
    colour: int
    x: int
    y: int


class Scene(NamedTuple):
    """One to four objects in distinct cells, a background that no text mentions, and in some worlds a small thing."""

    objects: tuple[Object, ...]
    background: int
    extra: Extra | None = None


def stream_rng(seed: int, stream: str, index: int, purpose: int = 0) -> np.random.Generator:
    """The generator of one index of a stream; `purpose` separates, say, graphs (0) from noise (1)."""
    return np.random.default_rng((seed, STREAMS[stream][0], index, purpose))


def graph(scene: Scene) -> tuple:
    """What makes two scenes the same scene: objects with cells, without jitter, background or order."""
    return tuple(sorted(o[:4] for o in scene.objects))


def bucket(scene: Scene) -> int:
    """Checksum of the scene graph in 0..7, unchanged when two objects swap colours."""
    bodies = sorted((o.cell, o.shape, o.size) for o in scene.objects)
    colours = sorted(o.colour for o in scene.objects)
    return zlib.crc32(bytes(itertools.chain(*bodies, colours))) % N_BUCKETS


def swap_colours(scene: Scene, i: int, j: int) -> Scene:
    """The scene with the colours of objects i and j exchanged, everything else equal."""
    objects = list(scene.objects)
    a, b = objects[i], objects[j]
    objects[i], objects[j] = a._replace(colour=b.colour), b._replace(colour=a.colour)
    return scene._replace(objects=tuple(objects))


def swappable(scene: Scene) -> list[tuple[int, int]]:
    """Pairs of objects that differ in shape and in colour."""
    pairs = itertools.combinations(range(len(scene.objects)), 2)
    objects = scene.objects
    return [(i, j) for i, j in pairs if objects[i][0] != objects[j][0] and objects[i][1] != objects[j][1]]


def draw_scene(rng: np.random.Generator, n_objects: int) -> Scene:
    """A random scene of `n_objects` objects in distinct cells."""
    cells = rng.permutation(9)[:n_objects].tolist()
    u = rng.random((n_objects, 5))
    u *= (len(SHAPES), len(COLOURS), len(SIZES), 2 * JITTER + 1, 2 * JITTER + 1)
    objects = tuple(
        Object(shape, colour, size, cell, dx - JITTER, dy - JITTER)
        for cell, (shape, colour, size, dx, dy) in zip(cells, u.astype(int).tolist(), strict=True)
    )
    return Scene(objects, int(rng.integers(N_BACKGROUNDS)))


def draw_pair(rng: np.random.Generator, buckets: tuple[int, ...]) -> tuple[Scene, Scene]:
    """A scene and its partner: two colours swapped, or for a lone object another scene of a lone object."""
    n_objects = OBJECT_COUNTS[int(np.searchsorted(np.cumsum(COUNT_SHARES), rng.random(), side="right"))]
    while True:
        scene = draw_scene(rng, n_objects)
        if bucket(scene) not in buckets:
            continue
        if n_objects == 1:
            partner = draw_scene(rng, 1)
            if bucket(partner) in buckets and graph(partner) != graph(scene):
                return scene, partner
        elif choices := swappable(scene):
            partner = swap_colours(scene, *choices[int(rng.integers(len(choices)))])
            return scene, partner._replace(background=int(rng.integers(N_BACKGROUNDS)))
