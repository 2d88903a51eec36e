"""`data features`: written for any source, gone on with, refused, and read by training."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from lit_blip2.commands.data import main
from lit_blip2.contents import DataError
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.data.faults import TooManyFaultsError
from lit_blip2.data.features import writer as keeping
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.images import load_image
from lit_blip2.data.laion import LAION
from lit_blip2.data.mixture import Mixture
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.transforms import eval_view, train_view
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.whole_files import alone
from tests.data.shards.test_shards import sample, write_tar

NAME, ARGS = "vit_tiny_patch16_224", {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    """A network with random weights, in a file: [5 tokens, 12 wide] of an image of 8 x 8."""
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), file)
    made = VisionEncoder(NAME, str(file), model_args=ARGS)
    made.load()
    return made


def fresh(vision) -> VisionEncoder:
    return VisionEncoder(vision.name, vision.weights, model_args=ARGS)


@pytest.fixture
def data(arguments):
    return COCO(**arguments | {"augment": False})


def keep(data, vision, out, **how):
    keeping.cache_features(data, fresh(vision), out, processes=1, threads=2, **how)


def live(vision, file: Path) -> torch.Tensor:
    return vision(eval_view(load_image(file), 8).unsqueeze(0))[0]


def test_each_section_holds_the_encoders_output_for_its_images(data, vision, tiny, tmp_path, capsys):
    keep(data, vision, tmp_path / "kept", batch=3)
    said = capsys.readouterr().out
    assert "train: 8 images x 1 views x 5 tokens x 12 float16 = 960 B in 1 shards, 1 to write" in said
    for section, ids in {"train": range(101, 109), "val": range(201, 206), "test": range(301, 304)}.items():
        store = FeatureStore(tmp_path / "kept" / section)
        assert len(store) == len(ids)
        for image_id in ids:
            wanted = live(vision, tiny / f"images/{section}/{image_id:012d}.png")
            torch.testing.assert_close(store.rows([image_id])[0].float(), wanted, atol=2e-3, rtol=1e-3)
        store.check(vision.fingerprint() | {"image_size": 8})
        assert store.signature == vision.signature


@pytest.mark.parametrize("dtype, error", [("float16", 2**-11), ("bfloat16", 2**-8), ("int8", None)])
def test_how_far_kept_features_are_from_live_ones(data, vision, tiny, tmp_path, dtype, error):
    keep(data, vision, tmp_path / "kept", dtype=dtype)
    store = FeatureStore(tmp_path / "kept" / "train")
    kept = store.rows([104])[0].float()
    wanted = live(vision, tiny / f"images/train/{104:012d}.png")
    bound = wanted.abs().amax(-1, keepdim=True) * (0.5 / 127 + 2**-11) if error is None else wanted.abs() * error + 1e-7
    assert ((kept - wanted).abs() <= bound + 1e-6).all() and not torch.equal(kept, wanted)
    assert store.rows([104]).dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float16)
    assert store.layout.bytes_per_image == 5 * (12 + 4 if dtype == "int8" else 24)


def test_shards_are_the_same_however_many_and_an_interrupted_run_goes_on(data, vision, tmp_path, monkeypatch, capsys):
    keep(data, vision, tmp_path / "one")
    monkeypatch.setattr(keeping, "MOST_IN_SHARD", 3)
    write_shard, written = keeping._write_shard, []

    def stops_at_the_third(place):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(place)
        return write_shard(place)

    monkeypatch.setattr(keeping, "_write_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        keep(data, vision, tmp_path / "many")
    with pytest.raises(FileNotFoundError, match="2 of 3 shards"):
        FeatureStore(tmp_path / "many" / "train")
    first = (tmp_path / "many/train/00000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(keeping, "_write_shard", write_shard)
    keep(data, vision, tmp_path / "many")
    assert "in 3 shards, 1 to write" in capsys.readouterr().out
    assert (tmp_path / "many/train/00000.safetensors").stat().st_mtime_ns == first
    for section in ("train", "val", "test"):
        one, many = (FeatureStore(tmp_path / name / section) for name in ("one", "many"))
        ids = np.load(tmp_path / "one" / section / "image_ids.npy")
        torch.testing.assert_close(one.rows(ids), many.rows(ids))
    keep(data, vision, tmp_path / "many")
    assert "0 B to write" in capsys.readouterr().out


def test_augmented_views_are_those_of_their_keys_and_training_draws_them(data, vision, tiny, tmp_path):
    keep(data, vision, tmp_path / "kept", views=3, seed=7)
    store = FeatureStore(tmp_path / "kept" / "train")
    image = load_image(tiny / f"images/train/{103:012d}.png")
    for view in range(3):
        wanted = vision(train_view(image, 8, np.random.default_rng((7, 103, view))).unsqueeze(0))[0]
        torch.testing.assert_close(store.rows([103], [view])[0].float(), wanted, atol=2e-3, rtol=1e-3)
    assert FeatureStore(tmp_path / "kept" / "val").views == 0
    data.features, data.augment = str(tmp_path / "kept"), True
    data.setup("fit")
    batches = list(train_loader(TrainPairs(data.pairs, 0), 8, 0, 20))
    seen = torch.stack([batch["features"][batch["image_id"].tolist().index(103)] for batch in batches])
    assert len(seen.unique(dim=0)) == 3
    plain = COCO(**vars_of(data) | {"augment": False, "features": data.features})
    with pytest.raises(ValueError, match=r"3 augmented views of each image: set data\.augment to true"):
        plain.setup("fit")


def vars_of(data: COCO) -> dict:
    return dict(root=str(data.root), train=data.train, image_size=8, batch_size=4)


@pytest.fixture
def mixed(tmp_path, arguments):
    """Files and shards, of which two samples have equal ids, and one image is no image."""
    many = {f"{i}": sample(20 + i, f"Laion {i}") for i in range(5)}
    write_tar(tmp_path / "laion/0.tar", many | {"5": {"jpg": b"", "txt": b"nothing"}})
    index_shards(tmp_path / "laion", workers=1)

    def make(**more):
        sources = {
            "files": COCO(root=arguments["root"], train=arguments["train"]),
            "web": LAION(root=str(tmp_path), shards="laion", window=None),
        }
        return Mixture(sources, root=arguments["root"], image_size=8, batch_size=4, augment=False, **more)

    return make


def test_a_mixture_trains_on_its_features_as_on_its_images(mixed, vision, tmp_path, capsys):
    keep(mixed(max_unreadable=0.5), vision, tmp_path / "kept")
    assert "train_web: 1 images cannot be read" in capsys.readouterr().out
    assert json.loads((tmp_path / "kept/train_web/unreadable.json").read_text())["sources"]["train_web"]["empty"]
    seen = {}
    for name, features in {"live": None, "kept": str(tmp_path / "kept")}.items():
        data = mixed(features=features)
        data.setup("fit")
        loader = train_loader(TrainPairs(data.pairs, 1), 4, 0, 12)
        replaced: list = []
        loader.faults = SimpleNamespace(add=lambda rows, faults, to=replaced: to.extend(faults))
        seen[name] = list(loader), replaced
    (images, faults), (kept, kept_faults) = seen["live"], seen["kept"]
    assert {fault.source for fault in faults} == {"web"}
    assert [fault[:2] for fault in faults] == [fault[:2] for fault in kept_faults]
    for one, other in zip(images, kept, strict=True):
        assert one["caption"] == other["caption"] and torch.equal(one["image_id"], other["image_id"])
        torch.testing.assert_close(other["features"].float(), vision(one["image"]), atol=2e-3, rtol=1e-3)


def test_more_unreadable_images_than_the_limit_stop_it_with_examples(vision, tmp_path, arguments):
    shutil.copytree(arguments["root"], tmp_path / "world")
    for split in ("train", "val"):
        next((tmp_path / f"world/images/{split}").iterdir()).write_bytes(b"")
    data = COCO(**arguments | {"root": str(tmp_path / "world"), "max_unreadable": 0.0005})
    with pytest.raises(TooManyFaultsError, match=r"1 of 8 images of train could not.*\n.*train, empty: 1 \(such as"):
        keep(data, vision, tmp_path / "kept")
    data.faults.limit = 1
    with pytest.raises(TooManyFaultsError, match="val, empty: 1"):
        keep(data, vision, tmp_path / "kept")
    shutil.rmtree(tmp_path / "world")
    shutil.copytree(arguments["root"], tmp_path / "world")
    keep(data, vision, tmp_path / "kept")  # what could not be read is looked at again
    for section, ids in {"train": range(101, 109), "val": range(201, 206)}.items():
        assert FeatureStore(tmp_path / "kept" / section).rows(list(ids)).isfinite().all()


def test_features_of_something_else_are_not_overwritten(data, vision, tmp_path):
    (tmp_path / "val").mkdir()
    keep(data, vision, tmp_path / "kept")
    with pytest.raises(ValueError, match=r"dtype: stored 'float16', expected 'int8'"):
        keep(data, vision, tmp_path / "kept", dtype="int8")
    with pytest.raises(ValueError, match="drop_last_blocks: stored 1, expected 0"):
        other = VisionEncoder(NAME, vision.weights, model_args=ARGS, drop_last_blocks=0)
        keeping.cache_features(data, other, tmp_path / "kept", processes=1)
    with pytest.raises(ValueError, match="is there and holds no features"):
        keep(data, vision, tmp_path)
    ids, about = tmp_path / "kept/train/image_ids.npy", tmp_path / "kept/train/features.json"
    np.save(ids, np.load(ids) + 1)
    with pytest.raises(DataError, match=r"image_ids\.npy is damaged"):
        keep(data, vision, tmp_path / "kept")
    told = json.loads(about.read_text())
    about.write_text(json.dumps({name: told[name] for name in ("made_by", "layout")}))  # as before there was a CRC-32
    with pytest.raises(ValueError, match=r"image_ids\.npy: they are of other images"):
        keep(data, vision, tmp_path / "kept")


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(data, vision, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"1.92 KB do not fit in the 1 KB that are free in .*: write int8"):
        keep(data, vision, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_what_the_kept_type_cannot_hold_is_refused(data, vision, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(VisionEncoder, "forward", lambda self, x: torch.full((len(x), 5, 12), 1e6))
    with pytest.raises(ValueError, match=r"features of image 101 in train are not finite in .*: write bfloat16"):
        keep(data, vision, tmp_path / "kept", dtype=dtype)
    assert not list((tmp_path / "kept/train").glob("*.safetensors"))
    keep(data, vision, tmp_path / "other", dtype="bfloat16")


def test_an_image_size_that_the_encoder_refuses(arguments, vision, tmp_path):
    with pytest.raises(ValueError, match=r"does not take data\.image_size=16"):
        keep(COCO(**arguments | {"image_size": 16}), vision, tmp_path / "kept")


def test_an_image_id_of_two_files_is_refused(data, tiny, tmp_path, vision):
    shutil.copytree(tiny, tmp_path / "world")
    file = tmp_path / "world/annotations/binding_val.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "other.png"
    file.write_text(json.dumps(content))
    data.root = tmp_path / "world"
    with pytest.raises(ValueError, match=r"image id 201 stands for both 0+201\.png and other\.png"):
        keep(data, vision, tmp_path / "kept")


@pytest.mark.slow
def test_the_command_with_several_processes(arguments, vision, tmp_path, capsys):
    net = {"vision": {"name": NAME, "weights": vision.weights, "model_args": ARGS}}
    experiment = {
        "model": {"class_path": "lit_blip2.lit.LitStage1", "init_args": {"net": net}},
        "data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": arguments | {"features": "elsewhere"}},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    given = ["features", "--config", str(tmp_path / "experiment.yaml"), "--out", str(tmp_path / "kept")]
    assert main([*given, "--processes=2", "--batch=2"]) == 0
    keep(COCO(**arguments), vision, tmp_path / "alone")
    for section in ("train", "val", "test"):
        one, other = (FeatureStore(tmp_path / name / section) for name in ("kept", "alone"))
        ids = np.load(tmp_path / "kept" / section / "image_ids.npy")
        torch.testing.assert_close(one.rows(ids), other.rows(ids))
    capsys.readouterr()
    assert main([*given, "--views=-1"]) == 2 and "views=-1 must be at least 0" in capsys.readouterr().err
    other = json.dumps({"name": NAME, "weights": vision.weights, "model_args": ARGS, "drop_last_blocks": 0})
    assert main([*given, "--vision", other]) == 2
    assert "drop_last_blocks: stored 1, expected 0" in capsys.readouterr().err
    del experiment["model"]
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    assert main(given) == 2 and "or with --vision" in capsys.readouterr().err


def test_features_of_images_that_have_changed_since_are_refused(vision, tmp_path, arguments):
    """A row less, and every later image would have the features of its neighbour."""
    rows = [f"{i:012d}.png,Image {i}" for i in range(101, 109)]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["image,caption", *rows]))
    sizes = dict(image_size=8, batch_size=4, augment=False, images=f"{arguments['root']}/images/train")
    keep(COCO(str(tmp_path), train="mine.csv", **sizes), vision, tmp_path / "kept")
    again = COCO(str(tmp_path), train="mine.csv", features="kept", **sizes)
    again.setup("fit")
    table.write_text("\n".join(["image,caption", rows[0], *rows[2:]]))
    with pytest.raises(ValueError, match=r"other files under the ids of 6 images, among them \[1, 2, 3"):
        COCO(str(tmp_path), train="mine.csv", features="kept", **sizes).setup("fit")


def test_features_of_shards_that_have_changed_since_are_refused(mixed, vision, tmp_path):
    keep(mixed(max_unreadable=0.5), vision, tmp_path / "kept")
    write_tar(tmp_path / "laion/0.tar", {f"{i}": sample(20 + i, f"Laion {i}") for i in range(1, 7)})
    shutil.rmtree(tmp_path / "laion/index")
    index_shards(tmp_path / "laion", workers=1)
    with pytest.raises(ValueError, match="train_web holds features of other files"):
        mixed(features=str(tmp_path / "kept")).setup("fit")


def test_two_that_write_one_folder_do_not_meet(data, vision, tmp_path):
    with alone(tmp_path / "kept"), pytest.raises(OSError, match=r"another process is writing .*kept"):
        keep(data, vision, tmp_path / "kept")


def test_features_may_lie_in_the_working_folder(data, vision, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    keep(data, vision, Path("kept"))
    there = COCO(**arguments | {"features": "kept", "augment": False})
    there.setup("fit")
    assert there.stores["train"].folder == Path("kept/train")


def test_features_of_an_encoder_with_the_sizes_of_another_are_refused(capsys, tmp_path):
    given = ["features", "--config", "experiments/mini_stage1.yaml", "--out", str(tmp_path / "features")]
    assert main([*given, "--model.net.vision.name=vit_base_patch16_224"]) == 2
    assert "stand in the experiment for vit_tiny_r_s16_p8_224" in capsys.readouterr().err


@pytest.fixture
def kept(vision, tmp_path, arguments):
    """A copy of the tiny world with its features, its images' paths, and a run on both."""
    shutil.copytree(arguments["root"], tmp_path / "world")
    given = arguments | {"root": str(tmp_path / "world"), "augment": False}
    keep(COCO(**given), vision, tmp_path / "kept")
    return SimpleNamespace(
        images=tmp_path / "world/images",
        setup=lambda stage="fit": COCO(**given, features=str(tmp_path / "kept")).setup(stage),
        again=lambda: keep(COCO(**given), vision, tmp_path / "kept"),
        folder=tmp_path / "kept",
    )


def replace(file: Path, content: bytes, seconds: int = 60) -> None:
    """Write a file with a date of its own."""
    date = file.stat().st_mtime_ns + seconds * 10**9
    file.write_bytes(content)
    os.utime(file, ns=(date, date))


@pytest.mark.parametrize("same_size", [True, False])
def test_an_image_that_was_replaced_under_its_name_is_refused(kept, same_size):
    one, *_, other = sorted((kept.images / "train").iterdir())
    content = bytearray(one.read_bytes())
    content[-20] ^= 1  # of a PNG's last checksums
    replace(one, bytes(content) if same_size else other.read_bytes() + b"\0")
    with pytest.raises(
        ValueError, match=r"1 images were replaced since .*kept/train was .* among them .*101\.png: remove"
    ):
        kept.setup()
    with pytest.raises(ValueError, match=r"remove its 00000\.safetensors \(1 of 1 files\) and run"):
        kept.again()
    kept.setup("test")
    replace(next((kept.images / "test").iterdir()), other.read_bytes())
    with pytest.raises(ValueError, match=r"replaced since .*kept/test"):
        kept.setup("test")
    for section in ("train", "test"):
        (kept.folder / section / "00000.safetensors").unlink()
    kept.again()
    kept.setup()
    kept.setup("test")


def test_a_copy_of_the_images_with_other_dates_is_taken_and_so_are_none(kept):
    for file in kept.images.rglob("*.png"):
        replace(file, file.read_bytes())
    kept.setup()
    kept.again()
    shutil.rmtree(kept.images)
    kept.setup()


def test_features_of_before_are_taken_and_told(kept, caplog):
    shard = kept.folder / "train/00000.safetensors"
    tensors = load_file(shard)
    assert tensors.pop("marks").shape == (8, 3)
    save_file(tensors, shard, metadata={"unreadable": "{}"})
    for file in (kept.images / "train").iterdir():
        replace(file, file.read_bytes() + b"\0")
    with caplog.at_level("INFO"):
        kept.setup()
    assert "kept/train does not say how its images' files were" in caplog.text


def test_an_image_that_could_not_be_read_may_be_replaced(kept, vision, tmp_path):
    file = kept.images / "train" / f"{102:012d}.png"
    whole = file.read_bytes()
    replace(file, b"")
    given = dict(root=str(kept.images.parent), train="annotations/captions_train.json", image_size=8, max_unreadable=1)
    data = COCO(**given, augment=False)
    keep(data, vision, tmp_path / "broken")
    replace(file, whole)
    COCO(**given, augment=False, features=str(tmp_path / "broken")).setup("fit")
    keep(data, vision, tmp_path / "broken")
    assert FeatureStore(tmp_path / "broken/train").rows([102]).isfinite().all()


def test_a_disk_that_is_full_in_the_middle_keeps_the_shards_that_are_there(data, vision, small_disk):
    """As another program has filled it since the room was looked at; the same command goes on."""
    disk = small_disk(2**20)
    keep(data, vision, disk / "kept")
    (folder,) = (disk / "kept").glob("train")
    first, *others = sorted(folder.glob("*.safetensors"))
    whole, lost = first.read_bytes(), others[0] if others else first
    tensors = load_file(lost)
    lost.unlink()
    (disk / "much.bin").write_bytes(bytes(shutil.disk_usage(disk).free))
    with pytest.raises(OSError, match=rf"not enough disk space for {lost}: it needs .* or more, 0 B are free"):
        keeping.save_shard(lost, {name: each for name, each in tensors.items() if name != "crc32"}, {})
    assert not lost.exists() and (first == lost or first.read_bytes() == whole)
    assert not list(folder.glob(".*part*"))
    (disk / "much.bin").unlink()
    keep(data, vision, disk / "kept")
    assert lost.exists()
