"""Is a caption true of a scene?

Inclusive reading: a caption is true of a scene when its mentions can be matched to distinct objects of the
scene that have everything said of them, and the relation holds. Further objects do no harm.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from lit_blip2.mini.grammar import UNSAID, Caption, holds
from lit_blip2.mini.world import Scene

_SLOTS = 4
_ORDERS = tuple(itertools.permutations(range(_SLOTS)))
_EMPTY = -2  # neither an attribute nor UNSAID


def is_true(caption: Caption, scene: Scene) -> bool:
    """Whether the caption is true of the scene, by trying every matching."""
    fits = [
        [all(said in (UNSAID, has) for said, has in zip(m, o[:4], strict=True)) for o in scene.objects]
        for m in caption.mentions
    ]
    if len(fits) > len(scene.objects) or not all(any(row) for row in fits):
        return False
    for order in itertools.permutations(range(len(scene.objects)), len(fits)):
        if all(row[i] for row, i in zip(fits, order, strict=True)):
            pair = [scene.objects[i] for i in order[:2]]
            if caption.relation == UNSAID or holds(caption.relation, *pair):
                return True
    return False


def _table(rows: Sequence[Sequence[tuple]], fill: int) -> np.ndarray:
    table = np.full((len(rows), _SLOTS, 4), fill, dtype=np.int8)
    for i, row in enumerate(rows):
        table[i, : len(row)] = [item[:4] for item in row]
    return table


def match_matrix(captions: Sequence[Caption], scenes: Sequence[Scene], block: int = 256) -> np.ndarray:
    """bool [T, I]: caption t is true of scene i. The array form of `is_true`; memory grows with block * I."""
    objects_I44 = _table([scene.objects for scene in scenes], _EMPTY)
    parts = [_match(captions[t : t + block], objects_I44) for t in range(0, len(captions), block)]
    return np.concatenate(parts) if parts else np.zeros((0, len(scenes)), dtype=bool)


def _match(captions: Sequence[Caption], objects_I44: np.ndarray) -> np.ndarray:
    # An absent mention is silent about everything, so it may take an empty slot.
    said_T44 = _table([c.mentions for c in captions], UNSAID)
    relation_T = np.array([c.relation for c in captions])
    fits_TIab = np.ones((len(said_T44), len(objects_I44), _SLOTS, _SLOTS), dtype=bool)
    for field in range(4):
        said, has = said_T44[:, None, :, None, field], objects_I44[None, :, None, :, field]
        fits_TIab &= (said == UNSAID) | (said == has)
    row_I4, column_I4 = objects_I44[:, :, 3] // 3, objects_I44[:, :, 3] % 3
    true_TI = np.zeros(fits_TIab.shape[:2], dtype=bool)
    for order in _ORDERS:
        ok_TI = fits_TIab[:, :, range(_SLOTS), order].all(-1)
        a, b = order[:2]
        held_5I = np.stack(
            [
                column_I4[:, a] < column_I4[:, b],
                column_I4[:, a] > column_I4[:, b],
                row_I4[:, a] < row_I4[:, b],
                row_I4[:, a] > row_I4[:, b],
                np.ones(len(objects_I44), dtype=bool),
            ]
        )
        true_TI |= ok_TI & held_5I[relation_T]  # UNSAID is -1: the last row
    return true_TI
