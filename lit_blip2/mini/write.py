"""The mini-world on disk, in the files of COCO captions and VQAv2, with scene graphs beside them."""

import io
import json
import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from rich.progress import track

from lit_blip2.contents import read_object
from lit_blip2.mini.extras import Kind, asked, told_first, with_extras
from lit_blip2.mini.grammar import Caption, Question, caption_text, draw_questions
from lit_blip2.mini.pairs import Described, described_pair
from lit_blip2.mini.render import PIXELS, render
from lit_blip2.mini.scene_files import caption_to_json, image_name, scene_to_json, scenes_file
from lit_blip2.mini.truth import match_matrix
from lit_blip2.mini.world import Scene, stream_rng
from lit_blip2.whole_files import written_whole

VERSION = 2
CAPTIONS_PER_IMAGE = 3
TRAIN_IMAGES_WITH_QUESTIONS = 2000
_PAIRS_A_TASK = 100
_NOISE, _EXTRA = 1, 4  # purpose numbers of generators: of pixel noise, and of a small thing in a pair of scenes


class Entry(NamedTuple):
    """One image to write: its id, the scene, its captions (none for a swapped partner) and questions."""

    image_id: int
    scene: Scene
    captions: tuple[Caption, ...]
    questions: tuple[Question, ...]


def write_world(
    out: Path,
    train: int = 12000,
    val: int = 500,
    test: int = 500,
    seed: int = 0,
    workers: int = 2,
    extra: Kind | None = None,
) -> None:
    """Write the world into the folder `out`: images/, annotations/ and settings.json.

    `train` (even), `val` and `test` count the captioned images; in val and test every image of two or more
    objects has a colour-swapped partner besides. extra: a small thing in the scenes, see extras.py; the objects are
    the same with and without. An existing world of the same settings is left as it is.
    Raises ValueError on one of other settings, naming the difference, and on a folder that is no mini-world.
    """
    out = Path(out)
    settings = {"version": VERSION, "train": train, "val": val, "test": test, "seed": seed}
    settings |= {} if extra is None else {"extra": extra}
    if train % 2:
        raise ValueError(f"train={train} images cannot be paired with swap partners: use an even number")
    if out.exists():
        return _check_existing(out, settings)
    with written_whole(out) as part:
        (part / "annotations").mkdir(parents=True)
        _write_train(part, train, seed, workers, extra)
        first = train + 1
        for split, size in (("val", val), ("test", test)):
            first += _write_evaluation(part, split, size, seed, first, workers, extra)
        _dump(part / "settings.json", settings)


def _check_existing(out: Path, settings: dict[str, int | str]) -> None:
    path = out / "settings.json"
    if not path.is_file():
        raise ValueError(f"{out} is no complete mini-world ({path} is missing): remove it, or write elsewhere")
    found = read_object(path)
    wanted = {"extra": None} | settings
    wrong = [f"{k}={found.get(k)} (wanted {v})" for k, v in wanted.items() if found.get(k) != v]
    if wrong:
        raise ValueError(f"{out} holds a mini-world of {', '.join(wrong)}: remove it, or write elsewhere")


def _write_train(out: Path, size: int, seed: int, workers: int, extra: Kind | None) -> None:
    tasks = [(out, seed, k, min(k + _PAIRS_A_TASK, size // 2), extra) for k in range(0, size // 2, _PAIRS_A_TASK)]
    parts = _parallel(_train_part, tasks, workers, "train")
    _write_annotations(out, "train", seated([entry for part in parts for entry in part]))


def seated(entries: list[Entry]) -> list[Entry]:
    """Half of the partners sit side by side, a, b, and meet in a batch that keeps groups of two; of the others,
    a, b and c, d, the order is a, c, b, d.

    With every partner in its batch, telling partners apart is all that is left to learn for a hard negative, and
    matching never starts.
    """
    table = [entries[i : i + 4] for i in range(0, len(entries), 4)]
    parted = [[four[i] for i in (0, 2, 1, 3)] if n % 2 and len(four) == 4 else four for n, four in enumerate(table)]
    return [entry for four in parted for entry in four]


def _train_part(task: tuple[Path, int, int, int, Kind | None]) -> list[Entry]:
    out, seed, start, stop, extra = task
    entries = []
    for k in range(start, stop):
        pair, rng = described_pair(seed, "train", k, CAPTIONS_PER_IMAGE)
        both = [
            Entry(i + 1, scene, captions, tuple(draw_questions(scene, rng) if i < TRAIN_IMAGES_WITH_QUESTIONS else ()))
            for i, (scene, captions) in enumerate(pair, start=2 * k)
        ]
        entries += _with_extras(both, seed, "train", extra)
    _write_images((out, "train", seed, entries))
    return entries


def _with_extras(entries: list[Entry], seed: int, split: str, kind: Kind | None) -> list[Entry]:
    """Entries of a pair with the same small thing in each; those with questions get one about it."""
    if kind is None:
        return entries
    scenes = with_extras(kind, [e.scene for e in entries], stream_rng(seed, split, entries[0].image_id, _EXTRA))
    return [
        e._replace(scene=scene, questions=tuple(asked(e.questions, scene.extra)) if e.questions else ())
        for e, scene in zip(entries, scenes, strict=True)
    ]


def _write_evaluation(out: Path, split: str, size: int, seed: int, first: int, workers: int, extra: Kind | None) -> int:
    """Write a retrieval set and its swapped partners; return how many images that was."""
    kept, partners = _distinct_pairs(split, size, seed)
    entries, swaps, pairs = [], [], []
    for i, ((told, questions), partner) in enumerate(zip(kept, partners, strict=True)):
        both = [Entry(first + i, told.scene, told.captions, tuple(questions))]
        if len(told.scene.objects) > 1:
            both.append(Entry(first + size + len(swaps), partner.scene, (), ()))
        entry, *swap = _with_extras(both, seed, split, extra)
        entries.append(entry)
        if swap:
            swaps += swap
            text = told_first(caption_text(entry.captions[0]), entry.scene.extra)
            swapped = swaps[-1].image_id
            pairs.append({"image_id": entry.image_id, "caption": text, "swapped_image_id": swapped})
    everything = entries + swaps
    tasks = [(out, split, seed, everything[k : k + 200]) for k in range(0, len(everything), 200)]
    list(_parallel(_write_images, tasks, workers, split))
    _write_annotations(out, split, entries, swaps)
    paired = {i for pair in pairs for i in (pair["image_id"], pair["swapped_image_id"])}
    images = [_image_record(split, entry.image_id) for entry in everything if entry.image_id in paired]
    _dump(out / "annotations" / f"binding_{split}.json", {"images": images, "pairs": pairs})
    return len(everything)


def _distinct_pairs(split: str, size: int, seed: int) -> tuple[list[tuple[Described, list[Question]]], list[Described]]:
    """Scenes with one caption each, no caption true of two of them; and the partner of each."""
    kept, partners, index = [], [], 0
    while len(kept) < size:
        (new, partner), rng = described_pair(seed, split, index, captions_per_image=1)
        index += 1
        scenes, captions = [d.scene for d, _ in kept], [d.captions[0] for d, _ in kept]
        if not match_matrix(captions, [new.scene]).any() and not match_matrix(new.captions, scenes).any():
            kept.append((new, draw_questions(new.scene, rng)))
            partners.append(partner)
    return kept, partners


def _parallel(task: Callable, items: list, workers: int, what: str) -> Iterable:
    show = {"description": f"mini-world, {what}", "total": len(items), "transient": True}
    if workers < 2:
        yield from track(map(task, items), **show)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from track(pool.map(task, items), **show)


def _image_record(split: str, image_id: int) -> dict:
    return {"id": image_id, "file_name": image_name(image_id), "width": PIXELS, "height": PIXELS}


def _write_images(task: tuple[Path, str, int, list[Entry]]) -> None:
    out, split, seed, entries = task
    folder = out / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    for entry in entries:
        pixels = render([entry.scene], stream_rng(seed, split, entry.image_id, _NOISE))[0]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
        (folder / image_name(entry.image_id)).write_bytes(buffer.getvalue())


def _write_annotations(out: Path, split: str, entries: list[Entry], swaps: list[Entry] = ()) -> None:
    folder = out / "annotations"
    captions, questions, answers, specs = [], [], [], []
    for entry in entries:
        for caption in entry.captions:
            key = {"id": len(captions) + 1, "image_id": entry.image_id}
            captions.append({**key, "caption": told_first(caption_text(caption), entry.scene.extra)})
            specs.append({**key, **caption_to_json(caption)})
        for question in entry.questions:
            key = {"question_id": len(questions) + 1, "image_id": entry.image_id}
            questions.append({**key, "question": question.text})
            answers.append({**key, **_answer(question)})
    images = [_image_record(split, entry.image_id) for entry in entries]
    scenes = [{"image_id": e.image_id, **scene_to_json(e.scene)} for e in [*entries, *swaps]]
    _dump(folder / f"captions_{split}.json", {"images": images, "annotations": captions})
    _dump(folder / f"questions_{split}.json", {"questions": questions})
    _dump(folder / f"answers_{split}.json", {"annotations": answers})
    _dump(scenes_file(out, split), {"scenes": scenes, "captions": specs})


def _answer(question: Question) -> dict:
    kinds = {"count": "number", "reading": "number", "existence": "yes/no", "relation": "yes/no"}
    kind = kinds.get(question.type, "other")
    one = {"answer": question.answer, "answer_confidence": "yes"}
    return {
        "question_type": question.type,
        "answer_type": kind,
        "multiple_choice_answer": question.answer,
        "answers": [{**one, "answer_id": i} for i in range(1, 11)],
    }


def _dump(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))
