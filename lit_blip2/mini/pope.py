"""POPE's questions in the mini-world: is there an object of this colour and shape? (arXiv 2305.10355)

About each captioned scene of val and test every sampling asks one question to be answered by yes, the same in all
samplings, and one to be answered by no. What that one asks for is not in the scene, and is drawn

    random       from all that is not there
    popular      from the POOL of these that most training scenes show
    adversarial  from the POOL of these that most often stand beside the scene's own objects in the training scenes

In the mini-world all objects are equally likely, so what is popular is chance. Two objects of a scene differ in colour
and in shape: what often stands beside them shares neither, which makes the adversarial questions the easiest here, not
the hardest. The hard ones ask for the colour of one object with the shape of another: the questions of type existence.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lit_blip2.contents import read_object
from lit_blip2.mini.grammar import existence_text
from lit_blip2.mini.scene_files import image_name, load_scenes, scenes_file
from lit_blip2.mini.world import COLOURS, SHAPES, Scene, stream_rng
from lit_blip2.whole_files import write_text

POOL = 8  # of 48 kinds of objects
KINDS = tuple(itertools.product(range(len(COLOURS)), range(len(SHAPES))))
_DRAWS = 3  # purpose number of the generator of these questions
Kind = tuple[int, int]  # colour and shape


def write_pope(root: Path) -> None:
    """annotations/pope_{val,test}.json of a mini-world, in POPE's layout with the sampling as `category`. Files that
    are there are left as they are: they are a function of the world."""
    files = {split: root / "annotations" / f"pope_{split}.json" for split in ("val", "test")}
    if all(file.exists() for file in files.values()):
        return
    seed = read_object(root / "settings.json")["seed"]
    counted = Beside(load_scenes(scenes_file(root, "train")).scenes.values())
    for split, file in files.items():
        if not file.exists():
            rows = [json.dumps(row) for row in _rows(root, split, seed, counted)]
            write_text(file, "".join(f"{row}\n" for row in rows))


class Beside:
    """What training scenes show. shown: kind -> scenes with such an object; together: a kind, another -> with both."""

    def __init__(self, scenes: Iterable[Scene]):
        self.shown: Counter[Kind] = Counter()
        self.together: Counter[tuple[Kind, Kind]] = Counter()
        for scene in scenes:
            kinds = kinds_in(scene)
            self.shown.update(kinds)
            self.together.update(itertools.permutations(kinds, 2))

    def pools(self, present: Sequence[Kind]) -> dict[str, list[Kind]]:
        """What each sampling draws from, in a scene of these kinds. Of equal numbers the first in KINDS counts."""
        absent = [kind for kind in KINDS if kind not in present]
        popular = sorted(absent, key=lambda kind: -self.shown[kind])
        beside = sorted(absent, key=lambda kind: -sum(self.together[own, kind] for own in present))
        return {"random": absent, "popular": popular[:POOL], "adversarial": beside[:POOL]}


def kinds_in(scene: Scene) -> list[Kind]:
    """Each colour and shape that an object has, once, sorted."""
    return sorted({(each.colour, each.shape) for each in scene.objects})


def _rows(root: Path, split: str, seed: int, counted: Beside) -> Iterator[dict[str, Any]]:
    found, number = load_scenes(scenes_file(root, split)), itertools.count(1)
    for image_id in found.captions:  # partners with swapped colours have none
        present, rng = kinds_in(found.scenes[image_id]), stream_rng(seed, split, image_id, _DRAWS)
        true = _drawn(present, rng)
        for sampling, pool in counted.pools(present).items():
            for label, kind in (("yes", true), ("no", _drawn(pool, rng))):
                about = {"question_id": next(number), "image": image_name(image_id), "text": existence_text(*kind)}
                yield about | {"label": label, "category": sampling}


def _drawn(kinds: Sequence[Kind], rng: np.random.Generator) -> Kind:
    return kinds[int(rng.integers(len(kinds)))]
