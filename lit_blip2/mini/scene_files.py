"""What is on the images of a mini-world's split, and what their captions say: a JSON file beside its annotations."""

from pathlib import Path
from typing import NamedTuple

from lit_blip2.contents import read_object, reading
from lit_blip2.mini.grammar import RELATIONS, UNSAID, Caption, Mention
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, SIZES, Extra, Object, Scene

SPLITS = ("train", "val", "test")
HOW_TO_MAKE = "the mini-world is made by `python -m lit_blip2 data make-mini --out data/mini`"


class SceneFile(NamedTuple):
    """What `scenes_{split}.json` holds, by image id."""

    scenes: dict[int, Scene]
    captions: dict[int, tuple[Caption, ...]]


def scenes_file(root: Path, split: str) -> Path:
    """What is on the images of a split, and what their captions say."""
    return root / "annotations" / f"scenes_{split}.json"


def image_name(image_id: int) -> str:
    """The file of an image, in its split's folder."""
    return f"{image_id:012d}.png"


def scene_to_json(scene: Scene) -> dict:
    """Names for the attributes; `offset` is the jitter in pixels; `corner` the upper left pixel of a small thing."""
    objects = [
        {
            "shape": SHAPES[o.shape],
            "colour": COLOURS[o.colour],
            "size": SIZES[o.size],
            "place": PLACES[o.cell],
            "offset": [o.dx, o.dy],
        }
        for o in scene.objects
    ]
    record = {"background": scene.background, "objects": objects}
    if (extra := scene.extra) is not None:
        record["extra"] = {"noun": extra.noun, "colour": COLOURS[extra.colour], "corner": [extra.x, extra.y]}
    return record


def scene_from_json(record: dict) -> Scene:
    objects = (
        Object(
            SHAPES.index(o["shape"]),
            COLOURS.index(o["colour"]),
            SIZES.index(o["size"]),
            PLACES.index(o["place"]),
            *o["offset"],
        )
        for o in record["objects"]
    )
    extra = record.get("extra")
    small = None if extra is None else Extra(extra["noun"], COLOURS.index(extra["colour"]), *extra["corner"])
    return Scene(tuple(objects), record["background"], small)


def caption_to_json(caption: Caption) -> dict:
    """Names for what is said, null for what is not; the relation holds between the first two mentions."""
    mentions = [
        {
            "shape": SHAPES[m.shape],
            "colour": COLOURS[m.colour],
            "size": None if m.size == UNSAID else SIZES[m.size],
            "place": None if m.cell == UNSAID else PLACES[m.cell],
        }
        for m in caption.mentions
    ]
    relation = None if caption.relation == UNSAID else RELATIONS[caption.relation]
    return {"kind": caption.kind, "mentions": mentions, "relation": relation}


def caption_from_json(record: dict) -> Caption:
    def number(names: tuple[str, ...], name: str | None) -> int:
        return UNSAID if name is None else names.index(name)

    mentions = (
        Mention(
            SHAPES.index(m["shape"]),
            COLOURS.index(m["colour"]),
            number(SIZES, m["size"]),
            number(PLACES, m["place"]),
        )
        for m in record["mentions"]
    )
    return Caption(record["kind"], tuple(mentions), number(RELATIONS, record["relation"]))


def load_scenes(path: Path) -> SceneFile:
    """Read `scenes_{split}.json`. Raises FileNotFoundError naming the command that writes the mini-world."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}, a file of the mini-world, is missing: {HOW_TO_MAKE}")
    with reading(path, "list of scenes", "write the mini-world again"):
        content = read_object(path)
        scenes = {record["image_id"]: scene_from_json(record) for record in content["scenes"]}
        captions: dict[int, list[Caption]] = {}
        for record in content["captions"]:
            captions.setdefault(record["image_id"], []).append(caption_from_json(record))
    return SceneFile(scenes, {i: tuple(found) for i, found in captions.items()})
