"""Annotations of a mini-world's images in other styles of captions, beside the plain ones: same ids, same images."""

import json
from pathlib import Path
from typing import Any

from lit_blip2.contents import read_object
from lit_blip2.mini.grammar import Caption
from lit_blip2.mini.scene_files import SPLITS, caption_from_json, scenes_file
from lit_blip2.mini.styles import STYLES, styled
from lit_blip2.mini.world import stream_rng
from lit_blip2.whole_files import write_text

_DRAWS = 2  # purpose number of the generator of what a style adds


def write_styles(root: Path, names: list[str]) -> None:
    """captions_SPLIT_STYLE.json of each split, and binding_SPLIT_STYLE.json of those to evaluate on, in the annotations
    of a mini-world. Files that are there are left as they are: they are a function of the world and the style.

    Raises ValueError for a style that is not known.
    """
    if unknown := sorted(set(names) - STYLES.keys()):
        raise ValueError(f"captions have no style {unknown[0]!r}: {', '.join(STYLES)} are known")
    seed = read_object(root / "settings.json")["seed"]
    for split in SPLITS if names else ():
        specs = _specs(root, split)
        for name in names:
            for kind, entries in (("captions", "annotations"), ("binding", "pairs")):
                file = root / "annotations" / f"{kind}_{split}.json"
                if file.exists():
                    _restyle(file, entries, specs, split, name, seed)


def _specs(root: Path, split: str) -> dict[tuple[str, int], Caption]:
    """What is said in each caption, by its id; of a binding pair, by its image: ("id", 3), ("image_id", 7)."""
    records = read_object(scenes_file(root, split))["captions"]
    return {(key, record[key]): caption_from_json(record) for record in records for key in ("image_id", "id")}


def _restyle(file: Path, entries: str, specs: dict[tuple[str, int], Caption], split: str, name: str, seed: int) -> None:
    """The same file with its captions in a style."""
    out = file.with_stem(f"{file.stem}_{name}")
    if out.exists():
        return
    content = read_object(file)
    key = "id" if entries == "annotations" else "image_id"
    content[entries] = [_styled(each, specs[key, each[key]], split, name, seed) for each in content[entries]]
    write_text(out, json.dumps(content, separators=(",", ":")))


def _styled(entry: dict[str, Any], caption: Caption, split: str, name: str, seed: int) -> dict[str, Any]:
    rng = stream_rng(seed, split, entry.get("id", entry["image_id"]), _DRAWS)
    return entry | {"caption": styled(caption, STYLES[name], rng)}
