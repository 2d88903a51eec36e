"""Every reader of files that come from elsewhere: a damaged file is read rightly, or refused by a DataError that names
it; no other error, no waiting, and no data set that is shorter without a word."""

import io
import json
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from lit_blip2 import checkpoint, config, pixels
from lit_blip2.ablation import folder as sweep_folder
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.schema import Metrics
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.data.annotations.binding import read_binding
from lit_blip2.data.annotations.captions import evaluated_ids, image_files, read_captions
from lit_blip2.data.annotations.questions import question_types, read_questions
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.shards import indexing
from lit_blip2.data.shards.folders import LocalFolder
from lit_blip2.data.shards.reader import Shards
from lit_blip2.data.visual_genome import read_regions
from lit_blip2.evaluation import items as scored
from lit_blip2.evaluation.rules import kept_rules, read_rules
from lit_blip2.exchange.files import read_json, read_weights
from lit_blip2.lit.callbacks.metrics_file import lines_before
from lit_blip2.lit.evaluators.unfinished import Unfinished
from lit_blip2.mini.scene_files import load_scenes
from lit_blip2.model import pretrained
from lit_blip2.model.bert import read_bert
from tests.ablation.conftest import SweepFolder
from tests.damage import Reader, attempt
from tests.data.cached import keys_of

QUICK, THOROUGH = 25, 1500  # damaged files of each reader


def written(write: Callable[[Path], Any]) -> dict[str, bytes]:
    """The files that a function writes into a folder."""
    with TemporaryDirectory() as place:
        write(Path(place))
        files = sorted(file for file in Path(place).rglob("*") if file.is_file() and file.suffix != ".lock")
        return {str(file.relative_to(place)): file.read_bytes() for file in files}


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


def lines(rows: list) -> bytes:
    return b"".join(encoded(row) + b"\n" for row in rows)


def plain(value: Any) -> Any:
    """What was read as values that compare."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, str | int | float | dict) else repr(value)


# ---------------------------------------------------------------------------------------------------- annotations

COCO = {
    "images": [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (1, 2, 3)],
    "annotations": [{"id": 10 + i, "image_id": i, "caption": f"a dog, number {i}"} for i in (1, 2, 3)],
}
KARPATHY = {
    "images": [
        {"cocoid": i, "filepath": "val2014", "filename": f"{i}.jpg", "split": "train", "sentences": [{"raw": f"a {i}"}]}
        for i in (1, 2, 3)
    ]
}
LAVIS = [{"image": f"coco/{i}.jpg", "caption": [f"a cat {i}", "two"], "image_id": f"coco_{i}"} for i in (1, 2, 3)]
TEXTCAPS = {"data": [{"image_id": f"0a{i}", "caption_str": f"a sign {i}"} for i in (1, 2, 3)]}
ROWS = [{"file_name": f"{i}.jpg", "text": f"a bird {i}"} for i in (1, 2, 3)]
CSV = b'image,caption,image_id\n1.jpg,"a hat, red",1\n2.jpg,a coat,2\n3.jpg,"a ""shoe""",3\n'
TOKEN = b"1.jpg#0\ta man .\n1.jpg#1\ta person .\n2.jpg#0\ta woman .\n"
ASKED = {
    "data_subtype": "val2014",
    "questions": [{"question_id": 10 * i, "image_id": i, "question": f"what is {i} ?"} for i in (1, 2, 3)],
}
ANSWERED = {
    "annotations": [
        {"question_id": 10 * i, "image_id": i, "question_type": "what", "answers": [{"answer": "red"}] * 2}
        for i in (1, 2, 3)
    ]
}
GQA = {
    str(i): {"imageId": f"n{i}", "question": f"is it {i} ?", "answer": "yes", "types": {"structural": "verify"}}
    for i in (1, 2, 3)
}
POPE = [{"question_id": i, "image": f"COCO_val2014_{i:012d}.jpg", "text": "a dog ?", "label": "no"} for i in (1, 2, 3)]
AOKVQA = [
    {"question_id": f"q{i}", "image_id": i, "split": "val", "question": "why ?", "choices": ["a"]}
    | {"direct_answers": ["so", "no"]}
    for i in (1, 2, 3)
]
VIZWIZ = [{"image": f"VizWiz_val_{i:08d}.jpg", "question": "what ?", "answers": [{"answer": "a"}]} for i in (1, 2, 3)]
TEXTVQA = {"data": [{"question_id": i, "image_id": f"a{i}", "question": "what ?", "answers": ["a"]} for i in (1, 2, 3)]}
LAVIS_VQA = [
    {"question_id": i, "question": "who ?", "answer": ["a"], "image": f"val2014/COCO_{i}.jpg", "dataset": "vqa"}
    for i in (1, 2, 3)
]
VG_QUESTIONS = [
    {"id": i, "qas": [{"qa_id": 10 * i, "image_id": i, "question": "what ?", "answer": "a."}]} for i in (1, 2, 3)
]
VG_IMAGES = [{"image_id": i, "url": f"https://host/VG_100K/{i}.jpg", "coco_id": None} for i in (1, 2, 3)]
VG_REGIONS = [{"id": i, "regions": [{"image_id": i, "phrase": f"a wall {i}"}]} for i in (1, 2, 3)]
BINDING = {
    "images": [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)],
    "pairs": [{"image_id": 1, "swapped_image_id": 2, "caption": "a red circle"}],
}


def captions(name: str, content: bytes, split: str = "train") -> Reader:
    return Reader(name, {name: content}, lambda folder: plain(read_captions(folder / name, split)))


def asked(name: str, content: Any) -> Reader:
    return Reader(name, {name: encoded(content)}, lambda folder: plain(read_questions(folder / name)))


def two_files(folder: Path) -> Any:
    files = folder / "questions.json", folder / "answers.json"
    return plain(read_questions(*files)), question_types.__wrapped__(*files)


ANNOTATIONS = [
    captions("coco.json", encoded(COCO)),
    captions("coco_test.json", encoded({"images": COCO["images"]}), "test"),
    captions("karpathy.json", encoded(KARPATHY)),
    captions("lavis.json", encoded(LAVIS)),
    captions("textcaps.json", encoded(TEXTCAPS)),
    captions("metadata.jsonl", lines(ROWS)),
    captions("lines.json", lines([{"image": row["file_name"], "caption": row["text"]} for row in ROWS])),
    captions("table.csv", CSV),
    captions("table.tsv", CSV.replace(b",", b"\t")),
    captions("results.token", TOKEN),
    Reader("evaluated", {"karpathy.json": encoded(KARPATHY)}, lambda folder: evaluated_ids(folder / "karpathy.json")),
    Reader("images", {"image_data.json": encoded(VG_IMAGES)}, lambda folder: image_files(folder / "image_data.json")),
    Reader("vqa", {"questions.json": encoded(ASKED), "answers.json": encoded(ANSWERED)}, two_files),
    asked("gqa.json", GQA),
    asked("aokvqa.json", AOKVQA),
    asked("vizwiz.json", VIZWIZ),
    asked("textvqa.json", TEXTVQA),
    asked("lavis_vqa.json", LAVIS_VQA),
    asked("vg_questions.json", VG_QUESTIONS),
    Reader("pope", {"pope.json": lines(POPE)}, lambda folder: plain(read_questions(folder / "pope.json"))),
    Reader("binding", {"binding.json": encoded(BINDING)}, lambda folder: plain(read_binding(folder / "binding.json"))),
    Reader(
        "regions",
        {"image_data.json": encoded(VG_IMAGES), "regions.json": encoded(VG_REGIONS)},
        lambda folder: plain(read_regions(folder / "image_data.json", folder / "regions.json", set())),
    ),
]

# ------------------------------------------------------------------------------------------- shards and their index


def write_shards(folder: Path) -> None:
    """Two shards of three samples each, and their index."""
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(3):
                stream = io.BytesIO()
                Image.new("RGB", (6, 4), (90 * shard + number,) * 3).save(stream, "JPEG")
                said = encoded({"caption": f"caption {shard} {number}"})
                for ending, data in (("jpg", stream.getvalue()), ("json", said)):
                    member = tarfile.TarInfo(f"{shard}{number}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    place, part = LocalFolder(folder), folder / "index"
    indexing._resume(part, place.sizes())
    line = None
    for name in place.sizes():
        line = indexing._append(part, indexing.list_shard(place, name), line)


def shards_read(folder: Path) -> Any:
    """All captions, and all images."""
    shards = Shards(folder)
    return [(shards.captions(sample), shards.image_bytes(sample)) for sample in range(len(shards))]


def shard_listed(folder: Path) -> Any:
    """What an index of a shard would hold. What is fewer must be told among what was left out."""
    found = indexing.list_shard(LocalFolder(folder), "00000.tar")
    assert len(found.images) >= 3 or found.left_out, "samples are missing, and nobody told"
    return found.images, found.captions


SHARDS = written(write_shards)
INDEX = tuple(name for name in SHARDS if name.startswith("index/"))
STATS = encoded({"count": 3, "successes": 3})
TARS = [
    Reader("an index of shards", SHARDS, shards_read, exact=True, damaged=INDEX),
    Reader("shards behind their index", SHARDS, shards_read, damaged=("00000.tar", "00001.tar")),
    Reader("a shard", {"00000.tar": SHARDS["00000.tar"], "00000_stats.json": STATS}, shard_listed),
]

# ------------------------------------------------------------------------------------------------- cached features


def write_features(folder: Path) -> None:
    """Four images in shards of three, as the writer leaves them."""
    from lit_blip2.data.features import writer

    values = torch.arange(4 * 2 * 3, dtype=torch.float32).view(4, 1, 2, 3)
    ids = np.array([3, 5, 8, 9])
    section = writer.Section("train", ids, keys_of(f"{number}.png" for number in ids), lambda place: None, None, 0.0)
    layout = writer.Layout("float16", 0, 0, 4, 2, 3, 3)
    target = writer.Target(section, folder / "train", layout, 8, "bicubic", 2)
    writer.begin(target, {"encoder": "vit"}, SimpleNamespace(signed=lambda: {"weights": [1, 2]}))
    for number, first in enumerate(range(0, 4, 3)):
        here = values[first : first + 3].contiguous()
        writer.save_shard(target.folder / f"{number:05d}.safetensors", writer.pack(here, "float16"), {})


def features_read(folder: Path) -> Any:
    store = FeatureStore(folder / "train")
    store.check({"encoder": "vit"})
    return store.rows([3, 5, 8, 9]).tolist(), store.signature, [part.tolist() for part in store.missing(*KNOWN)]


KNOWN = np.array([3, 5, 8, 9]), keys_of(f"{number}.png" for number in (3, 5, 8, 9))
FEATURES = [Reader("cached features", written(write_features), features_read, exact=True)]

# -------------------------------------------------------------------------------------------------- a run's records


def write_items(folder: Path) -> None:
    numbers = np.arange(4)
    metrics = {
        "vqa/accuracy": scored.Items(numbers / 4, numbers, numbers),
        "vqa/mean_over_types": scored.Items(numbers / 4, numbers // 2, numbers, np.array(["what", "how"] * 2)),
        "caption/bleu4": scored.Items(np.ones((4, 10)), numbers, numbers, None, "bleu4"),
    }
    scored.write_items(folder / "items.npz", metrics)


def items_read(folder: Path) -> Any:
    found = scored.read_items(folder / "items.npz")
    return {name: (*map(plain, each), each.value(), scored.interval(each, draws=3)) for name, each in found.items()}


def write_predictions(folder: Path) -> None:
    said = [dict(task="vqa", image_id=1, question_id=number, answer=str(number)) for number in range(3)]
    Unfinished(folder, "test", 0, ["a"]).add([*said, dict(task="caption", image_id=1, caption="a wall")])


def write_sweep(folder: Path) -> None:
    sweep = SweepFolder(folder)
    sweep.plan |= {"axes": {"itc": ["on"]}, "seeds": [0], "metrics": ["loss/itc"]}
    sweep.step("stage1/itc=on,seed=0", steps=3)
    sweep.validated("stage1/itc=on,seed=0", [{"step": 1, "loss/itc": 0.5}, {"step": 3, "loss/itc": None}])
    sweep.put("runs/stage1/itc=on,seed=0/metrics.json", '{"loss/itc": 0.4}')
    name = sweep.cell({"itc": "on"}, 0, ["stage1/itc=on,seed=0"], {"loss/itc": "stage1/itc=on,seed=0"})
    sweep.ended(name, **{"loss/itc": 0.4})
    sweep.write()


RULES = {"scoring": "official", "vqa_num_beams": 5, "prompt": "a photo of"}
TESTED = {"evaluated/test_questions": 3.0, "vqa/accuracy": 0.5}
VALIDATED = lines([{"step": 1, "loss/itc": 0.5}, {"step": 2, "loss/itc": None}])
RECORDS = [
    Reader("items.npz", written(write_items), items_read),
    Reader("unfinished", written(write_predictions), lambda folder: Unfinished(folder, "test", 1, ["a"]).done),
    Reader("decoding.json", {"decoding.json": encoded(RULES)}, read_rules),
    Reader("metrics.json", {"metrics.json": encoded(TESTED), "decoding.json": encoded(RULES)}, kept_rules),
    Reader(
        "metrics of a sweep",
        {"metrics.json": encoded(TESTED)},
        lambda folder: sweep_folder.read(folder / "metrics.json", Metrics),
    ),
    Reader("validation.jsonl", {"v.jsonl": VALIDATED}, lambda folder: lines_before(folder / "v.jsonl", 9)),
    Reader("sweep", written(write_sweep), lambda folder: repr(read_sweep(folder))),
    Reader(
        "scenes",
        {"scenes_val.json": (Path("lit_blip2") and encoded({"scenes": [], "captions": []}))},
        lambda folder: load_scenes(folder / "scenes_val.json"),
    ),
]

# --------------------------------------------------------------------------------------- configurations and weights

EXPERIMENT = b"""seed_everything: &seed 7
model:
  class_path: lit_blip2.lit.LitStage1
  init_args: {net: {itc: {projection: 8}, vision: {name: vit, weights: "a/b.pth"}}, bert: null}
data:
  root: data/mini
  seed: *seed
  when: 2026-01-01
"""
STATE = {"net.qformer.a": torch.arange(6.0).view(2, 3), "net.qformer.b": torch.ones(4)}


def write_checkpoint(folder: Path) -> None:
    held = {"state_dict": STATE, "config": EXPERIMENT.decode(), "settings": {"vision.mean": [0.5]}, "global_step": 3}
    torch.save(held, folder / "last.ckpt")
    torch.save({"model": STATE}, folder / "old.pth", _use_new_zipfile_serialization=False)


def write_folder(folder: Path) -> None:
    """A model's folder as Hugging Face has it, in shards."""
    names = dict(zip(sorted(STATE), ("a.safetensors", "b.safetensors")))
    for key, name in names.items():
        save_file({key: STATE[key]}, folder / name)
    (folder / "model.safetensors.index.json").write_bytes(encoded({"metadata": {}, "weight_map": names}))
    (folder / "config.json").write_bytes(encoded(CARD | {"model_type": "opt", "x": {"__float__": "Infinity"}}))


def write_bert(folder: Path) -> None:
    save_file({f"bert.{key}": value for key, value in STATE.items()}, folder / "model.safetensors")


def checkpoint_read(folder: Path) -> Any:
    held = checkpoint.read_checkpoint(folder / "last.ckpt")
    experiment = checkpoint.carried(held, folder / "last.ckpt", ())
    return {key: plain(value) for key, value in held["state_dict"].items()}, experiment.settings, experiment.vision


def old_read(folder: Path) -> Any:
    return repr(checkpoint.read_safely(folder / "old.pth"))


def folder_read(folder: Path) -> Any:
    return {key: plain(value) for key, value in read_weights(folder).items()}


def card_read(folder: Path) -> Any:
    card = pixels.card_beside(folder / "model.safetensors", "vit_tiny")
    return pixels.Looks.of({"mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"} | card, str(folder))


def yaml_read(folder: Path) -> Any:
    read = config.read(folder / "a.yaml")
    return read.settings, read.vision, read.data, config.flat(read.settings, "")


CARD = {"architecture": "vit_tiny", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}}
GRID = b"""question: "Which?"
steps:
  stage1: {fit: experiments/mini_stage1.yaml, set: {trainer.max_steps: 4}}
axes:
  itc: {on: {}, off: {stage1.model.net.itc: null}}
metrics: [loss/itg]
seeds: [0, 1]
"""
MODELS = [
    Reader("experiment", {"a.yaml": EXPERIMENT}, yaml_read),
    Reader("ablation", {"a.yaml": GRID}, lambda folder: repr(read_grid(folder / "a.yaml"))),
    Reader("checkpoint", written(write_checkpoint), checkpoint_read, exact=True, damaged=("last.ckpt",)),
    Reader("old checkpoint", written(write_checkpoint), old_read, damaged=("old.pth",)),
    Reader("weights", written(write_folder), folder_read),
    Reader("settings of a model", written(write_folder), lambda folder: read_json(folder / "config.json")),
    Reader("fields of a model", written(write_folder), pretrained.read_config, damaged=("config.json",)),
    Reader("card of an encoder", {"config.json": encoded(CARD)}, card_read),
    Reader("bert", written(write_bert), lambda folder: {k: plain(v) for k, v in read_bert(str(folder)).items()}),
]
READERS = {reader.name: reader for reader in (*ANNOTATIONS, *TARS, *FEATURES, *RECORDS, *MODELS)}


@pytest.fixture(scope="module", autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def right(reader: Reader) -> Any:
    """What the undamaged files say."""
    with TemporaryDirectory() as place:
        for name, content in reader.files.items():
            Path(place, name).parent.mkdir(parents=True, exist_ok=True)
            Path(place, name).write_bytes(content)
        return reader.read(Path(place))


def hold_to_it(reader: Reader, number: int) -> None:
    whole = right(reader)

    @settings(max_examples=number, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck])
    @given(seed=st.integers(0, 2**32))
    def damaged(seed: int) -> None:
        with TemporaryDirectory() as place:
            came = attempt(reader, whole, seed, Path(place))
        assert not came.wrong, f"{came.what}: {came.wrong} ({came.place})"

    damaged()


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_refused_by_name(name):
    hold_to_it(READERS[name], QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files_are_refused_by_name(name):
    hold_to_it(READERS[name], THOROUGH)
