"""Pairs of scenes with their captions: every caption of one partner is false of the other."""

from typing import NamedTuple

import numpy as np

from lit_blip2.mini.grammar import Caption, draw_caption
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import STREAMS, Scene, draw_pair, stream_rng


class Described(NamedTuple):
    scene: Scene
    captions: tuple[Caption, ...]


def described_pair(
    seed: int, stream: str, index: int, captions_per_image: int = 3
) -> tuple[tuple[Described, Described], np.random.Generator]:
    """Pair `index` of a stream, and its generator for further draws. Images 2 * index and 2 * index + 1."""
    rng = stream_rng(seed, stream, index)
    while True:
        scenes = draw_pair(rng, STREAMS[stream][1])
        a, b = (Described(s, tuple(draw_caption(s, rng) for _ in range(captions_per_image))) for s in scenes)
        mixed = [(c, b.scene) for c in a.captions] + [(c, a.scene) for c in b.captions]
        if not any(is_true(caption, scene) for caption, scene in mixed):
            return (a, b), rng
