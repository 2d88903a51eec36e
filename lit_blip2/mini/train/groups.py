"""Groups of scenes that differ in one thing each: what makes an encoder trained on captions look at every attribute.

Among scenes drawn at random, colours and places alone tell nearly all captions apart; shapes would hardly count.
"""

import numpy as np

from lit_blip2.mini.grammar import Caption, draw_caption
from lit_blip2.mini.pairs import Described
from lit_blip2.mini.truth import is_true
from lit_blip2.mini.world import (
    COLOURS,
    N_BACKGROUNDS,
    OBJECT_COUNTS,
    PLACES,
    SHAPES,
    SIZES,
    STREAMS,
    Scene,
    bucket,
    draw_scene,
    graph,
    stream_rng,
    swap_colours,
    swappable,
)

GROUP = 4
_CHOICES = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(SIZES), "cell": len(PLACES)}
_EDITS = (*_CHOICES, "swap")


def edit(scene: Scene, what: str, rng: np.random.Generator) -> Scene | None:
    """The scene with one object's shape, colour, size or cell changed, or two colours swapped; None if it cannot be."""
    if what == "swap":
        choices = swappable(scene)
        return swap_colours(scene, *choices[int(rng.integers(len(choices)))]) if choices else None
    objects = list(scene.objects)
    i = int(rng.integers(len(objects)))
    taken = {o.cell for o in objects} if what == "cell" else {getattr(objects[i], what)}
    free = [value for value in range(_CHOICES[what]) if value not in taken]
    objects[i] = objects[i]._replace(**{what: free[int(rng.integers(len(free)))]})
    return scene._replace(objects=tuple(objects))


def described_group(seed: int, stream: str, index: int, most: int = OBJECT_COUNTS[-1]) -> list[Described]:
    """Group `index` of a stream: a scene of at most `most` objects and three edits of it, each with one caption that
    is false of the others."""
    rng, buckets = stream_rng(seed, stream, index), STREAMS[stream][1]
    while True:
        scene = draw_scene(rng, OBJECT_COUNTS[int(rng.integers(most))])
        edits = (edit(scene, _EDITS[i], rng) for i in rng.permutation(len(_EDITS)).tolist())
        group = [s for s in (scene, *edits) if s is not None and bucket(s) in buckets]
        if len({graph(s) for s in group[:GROUP]}) == GROUP:
            break
    group = [s._replace(background=int(rng.integers(N_BACKGROUNDS))) for s in group[:GROUP]]
    return [Described(s, (_own_caption(s, [o for o in group if o is not s], rng),)) for s in group]


def _own_caption(scene: Scene, others: list[Scene], rng: np.random.Generator) -> Caption:
    """A caption of any kind, or, where that would be true of another scene, a full one, which never is."""
    caption = draw_caption(scene, rng)
    return draw_caption(scene, rng, "full") if any(is_true(caption, other) for other in others) else caption
