"""Data modules for each data set: from small files in the official layouts to training batches."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from lit_blip2.data import visual_genome
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.pairs import ID_SPACE
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.coco import COCO
from lit_blip2.data.conceptual import ConceptualCaptions
from lit_blip2.data.faults import Fault, Faults, TooManyFaultsError
from lit_blip2.data.laion import LAION
from lit_blip2.data.mixture import Mixture
from lit_blip2.data.module import PairData
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.shards.packing import pack
from lit_blip2.data.tar_shards import TarShards
from lit_blip2.data.visual_genome import VisualGenome
from tests.data.shards.test_shards import jpeg, sample, write_tar
from tests.data.test_module import Recorder, trainer

SIZE = dict(image_size=8, augment=False, batch_size=4)


@pytest.fixture
def genome(tmp_path):
    """Visual Genome's two files: five images; image 3 is COCO's 42, image 4 has no region."""
    root = tmp_path / "vg"
    for number in range(1, 6):
        path = root / f"VG_100K{'_2' if number % 2 else ''}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(10 * number))
    images = [
        {"image_id": n, "url": f"https://x/rak248/VG_100K{'_2' if n % 2 else ''}/{n}.jpg", "coco_id": c, "flickr_id": 1}
        for n, c in zip(range(1, 6), [None, 7, 42, None, None])
    ]
    regions = [
        {"id": n, "regions": [{"region_id": k, "image_id": n, "phrase": f"Region {k}."} for k in range(n % 4 * 2)]}
        for n in range(1, 6)
    ]
    (root / "image_data.json").write_text(json.dumps(images))
    (root / "region_descriptions.json").write_text(json.dumps(regions))
    (root / "val.json").write_text(
        json.dumps(
            {
                "images": [{"id": 42, "file_name": "x"}],
                "annotations": [{"image_id": 42, "caption": "x", "id": 1}],
            }
        )
    )
    return root


@pytest.fixture
def shards(tmp_path):
    """Nine shards of four images each."""
    folder = tmp_path / "laion"
    for number in range(9):
        many = {f"{number}{i}": sample(20 * number + i, f"Laion {number} {i}") for i in range(4)}
        write_tar(folder / f"{number:05d}.tar", many)
    index_shards(folder, workers=1)
    return folder


def batches(data: PairData, steps: int, start: int = 0, **how) -> list[dict]:
    data.setup("fit")
    return list(train_loader(TrainPairs(data.pairs, data.seed), data.batch_size, start, start + steps, **how))


def test_visual_genome_leaves_out_what_coco_evaluates_on_and_counts_it(genome, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(visual_genome, "rank_zero_info", said.append)
    data = VisualGenome(str(genome), evaluated=["val.json"], **SIZE | {"batch_size": 3})
    (batch,) = batches(data, 1)
    assert sorted(batch["image_id"].tolist()) == [1, 2, 5]
    assert "5 images; left out: 1 that COCO evaluates on, 1 without a region" in said[0]
    assert data.pairs.texts.of(1) == ["region 0", "region 1", "region 2", "region 3"]
    by_id = dict(zip(batch["image_id"].tolist(), batch["image"]))
    assert by_id[5].float().mean() > by_id[2].float().mean() > by_id[1].float().mean()


def test_karpathy_s_file_says_too_what_is_evaluated_on(genome):
    images = [
        {"filename": f"{n}.jpg", "filepath": "val2014", "split": split, "cocoid": n, "imgid": i, "sentences": []}
        for i, (n, split) in enumerate([(42, "restval"), (7, "test")])
    ]
    (genome / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    data = VisualGenome(str(genome), evaluated=["dataset_coco.json"], **SIZE | {"batch_size": 3})
    data.setup("fit")
    assert data.pairs.texts.image_ids.tolist() == [1, 3, 5]  # 3 is in COCO's restval: trained on


@pytest.mark.parametrize("kind", [ConceptualCaptions, LAION])
def test_shards_are_trained_on(shards, kind):
    data = kind(str(shards.parent), shards="laion", **SIZE)
    first = batches(data, 9)
    assert sorted(i for batch in first for i in batch["image_id"].tolist()) == list(range(36))
    for batch in first:
        assert [f"laion {i // 4} {i % 4}" for i in batch["image_id"].tolist()] == batch["caption"]
    again = batches(kind(str(shards.parent), shards="laion", **SIZE), 2, start=7, num_workers=2)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first[7:], again, strict=True))


def test_without_an_index_it_says_how_to_make_one(shards):
    data = LAION(str(shards.parent), shards="elsewhere", **SIZE)
    with pytest.raises(FileNotFoundError, match="python -m lit_blip2 data index"):
        data.setup("fit")


@pytest.fixture
def mixture(genome, shards, tiny):
    def make(**options):
        sources = {
            "coco": COCO(str(tiny), train="annotations/captions_train.json"),
            "vg": VisualGenome(str(genome)),
            "laion": LAION(str(shards.parent)),
        }
        return Mixture(sources, root=str(tiny), val="annotations/captions_val.json", **SIZE | options)

    return make


def test_a_mixture_trains_on_all_and_evaluates_on_its_own(mixture):
    data = mixture(weights={"coco": 1, "vg": 1, "laion": 2})
    found = batches(data, 256)
    source = torch.cat([batch["image_id"] for batch in found]) // ID_SPACE
    assert source.bincount().tolist() == [256, 256, 512]
    assert {batch["image"].shape for batch in found} == {(4, 3, 8, 8)}
    assert data.tasks("val") == {"caption"} and list(data.tables) == ["val"]
    assert {text.split()[0] for batch in found for text in batch["caption"]} == {"image", "region", "laion"}


def test_a_mixture_divides_over_ranks_and_workers_and_resumes(mixture):
    whole = batches(mixture(), 6)
    ranks = [batches(mixture(), 6, rank=rank, world_size=2) for rank in (0, 1)]
    for one, first, second in zip(whole, *ranks, strict=True):
        assert torch.equal(one["image"], torch.cat([first["image"], second["image"]]))
        assert one["caption"] == first["caption"] + second["caption"]
    late = batches(mixture(), 2, start=4, num_workers=1)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(whole[4:], late, strict=True))


def test_a_mixture_is_written_in_yaml(genome, shards, tiny):
    parser = ArgumentParser()
    parser.add_subclass_arguments(PairData, "data")
    source = {"class_path": "lit_blip2.data.laion.LAION", "init_args": {"root": str(shards.parent), "best": 1}}
    given = {"sources": {"laion": source}, "weights": {"laion": 2}, "batch_size": 6}
    config = parser.parse_object({"data": {"class_path": "lit_blip2.data.mixture.Mixture", "init_args": given}})
    data = parser.instantiate_classes(config).data
    assert (data.batch_size, data.sources["laion"].best) == (6, 1)
    data.setup("fit")
    assert len(data.pairs) == 36


def test_weights_of_other_names_are_refused(mixture):
    with pytest.raises(ValueError, match="weights are of coco, lion; sources are coco, vg, laion"):
        mixture(weights={"coco": 1, "lion": 2}).setup("fit")


def test_an_unreadable_image_is_replaced_the_same_way_everywhere(shards, tmp_path):
    folder = tmp_path / "faulty"
    for number in range(9):
        many = {f"{number}{i}": sample(20 * number + i, f"Laion {number} {i}") for i in range(4)}
        if number == 4:
            many["41"]["jpg"], many["42"]["jpg"] = b"", b"no image"
        write_tar(folder / f"{number:05d}.tar", many)
    index_shards(folder, workers=1)
    faults = Faults(limit=0.01)
    whole, clean = (batches(LAION(str(f.parent), shards=f.name, **SIZE), 9, faults=faults) for f in (folder, shards))
    assert faults.counts == {("faulty", "empty"): 1, ("faulty", "not an image"): 1} and faults.rows == {
        "faulty": 36,
        "laion": 36,
    }
    assert "00004.tar/41.jpg: empty" in faults.examples["faulty", "empty"][0]
    changed = [(a, b) for a, b in zip(whole, clean) if not torch.equal(a["image"], b["image"])]
    assert 1 <= len(changed) <= 2 and all("faults" not in batch for batch in whole)
    helped = batches(LAION(str(tmp_path), shards="faulty", **SIZE), 9, num_workers=2, faults=Faults(0.01))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(whole, helped, strict=True))
    ranks = [
        batches(LAION(str(tmp_path), shards="faulty", **SIZE), 9, rank=r, world_size=2, faults=Faults(0.01))
        for r in (0, 1)
    ]
    for one, first, second in zip(whole, *ranks, strict=True):
        assert one["caption"] == first["caption"] + second["caption"]


def test_a_missing_file_is_replaced_too(tmp_path):
    for number in range(6):
        Image.fromarray(np.full((4, 6, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "x.csv").write_text("image,caption\n" + "".join(f"{n}.png,Number {n}\n" for n in range(6)))
    (tmp_path / "3.png").unlink()
    faults = Faults(limit=0.01)
    data = COCO(str(tmp_path), train="x.csv", images=".", **SIZE | {"batch_size": 6})
    (batch,) = batches(data, 1, faults=faults)
    assert faults.counts == {("coco", "missing"): 1} and "number 3" not in batch["caption"]
    faults.write(tmp_path / "unreadable.json")
    written = json.loads((tmp_path / "unreadable.json").read_text())
    assert written["rows"] == {"coco": 6} and written["sources"]["coco"]["missing"]["count"] == 1


def test_too_many_faults_end_the_run_with_examples():
    faults = Faults(limit=0.01)
    fault = Fault("sbu", "truncated", "cannot read image 7.tar/b.jpg: truncated")
    for _ in range(10):
        faults.add({"sbu": 100, "laion": 10**6}, [fault])
    with pytest.raises(
        TooManyFaultsError, match=r"(?s)11 of 1,001 images of sbu .* sbu, truncated: 11 \(such as .*7\.tar/b"
    ):
        faults.add({"sbu": 1}, [fault])
    with pytest.raises(ValueError, match=r"max_unreadable=2 must lie in 0\.\.1"):
        Faults(2)


def test_a_source_of_nothing_readable_ends(tmp_path):
    write_tar(tmp_path / "bad" / "0.tar", {f"{i}": {"jpg": b"no image", "txt": b"words"} for i in range(4)})
    index_shards(tmp_path / "bad", workers=1)
    with pytest.raises(RuntimeError, match=r"10 images drawn in turn cannot be read, the last: .*not an image"):
        batches(LAION(str(tmp_path), shards="bad", **SIZE), 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_packed_files_give_the_batches_of_the_files(tiny, tmp_path, workers):
    files = {"root": str(tiny), "train": "annotations/captions_train.json", "group": 2}
    config = tmp_path / "experiment.yaml"
    config.write_text(json.dumps({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": files}}))
    pack([config], tmp_path / "packed", samples=3, workers=workers)
    assert [file.name for file in sorted((tmp_path / "packed").glob("*.tar"))] == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    size = SIZE | {"augment": True}
    first = batches(COCO(**files, **size), 5)
    second = batches(TarShards(str(tmp_path), shards="packed", window=None, group=2, **size), 5)
    for a, b in zip(first, second, strict=True):
        assert a["caption"] == b["caption"] and torch.equal(a["image"], b["image"])


def test_an_interrupted_packing_is_gone_on_with_and_another_refused(shards, tmp_path):
    source = {"class_path": "lit_blip2.data.laion.LAION", "init_args": {"root": str(shards.parent)}}
    config = tmp_path / "experiment.yaml"
    config.write_text(json.dumps({"data": source}))
    pack([config], tmp_path / "again", samples=10, workers=1)
    whole = {file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.tar")}
    (tmp_path / "again" / "00002.tar").unlink()
    (tmp_path / "again" / "00001.part").write_bytes(b"half")
    for file in (tmp_path / "again" / "index").iterdir():
        file.unlink()
    (tmp_path / "again" / "index").rmdir()
    kept = (tmp_path / "again" / "00000.tar").stat().st_mtime_ns
    pack([config], tmp_path / "again", samples=10, workers=1)
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.tar")} == whole
    assert (tmp_path / "again" / "00000.tar").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match=r"'samples': 10, .*, not of .*'samples': 9, .*: give another --out"):
        pack([config], tmp_path / "again", samples=9)


def test_groups_stay_whole_only_without_windows():
    with pytest.raises(ValueError, match="group=2 needs window: null"):
        TarShards(group=2)


def test_a_run_keeps_what_was_replaced_beside_its_metrics(tmp_path, caplog):
    data = COCO(str(tmp_path), train="x.csv")
    data.trainer, data.folder = SimpleNamespace(global_rank=0), str(tmp_path)
    data.teardown("fit")
    assert not (tmp_path / "unreadable.json").exists()
    data.faults.add({"coco": 100}, [Fault("coco", "empty", "cannot read image 3.jpg: empty")])
    data.teardown("fit")
    assert json.loads((tmp_path / "unreadable.json").read_text())["sources"]["coco"]["empty"]["count"] == 1
    assert "replaced 1 images" in caplog.text


def test_a_run_that_is_broken_off_keeps_it_too(tmp_path):
    """Lightning's own hook, of a run whose images cannot be read."""
    write_tar(tmp_path / "bad" / "0.tar", {f"{i}": {"jpg": jpeg(i), "txt": b"words"} for i in range(8)})
    write_tar(
        tmp_path / "bad" / "1.tar", {f"{i}": {"jpg": b"", "txt": b"words"} for i in range(8)} | {"x": sample(1, "x")}
    )
    index_shards(tmp_path / "bad", workers=1)
    data = LAION(str(tmp_path), shards="bad", max_unreadable=0.001, **SIZE)
    run = trainer(tmp_path, max_steps=20, logger=CSVLogger(tmp_path), limit_val_batches=0)
    with pytest.raises(TooManyFaultsError):
        run.fit(Recorder(), data)
    assert json.loads((Path(run.log_dir) / "unreadable.json").read_text())["sources"]["bad"]["empty"]["count"] > 1


@pytest.mark.parametrize("kind", ["MPO", "PPM", "JPEG2000"])
def test_images_of_any_kind_are_packed(tmp_path, kind):
    """They are decoded by what they hold; a tar's reader goes by their names."""
    for number in range(3):
        Image.new("RGB", (64, 48), (80 * number, 0, 0)).save(tmp_path / f"{number}.img", kind)
    (tmp_path / "x.csv").write_text("image,caption\n" + "".join(f"{n}.img,Number {n}\n" for n in range(3)))
    config = tmp_path / "experiment.yaml"
    source = {"root": str(tmp_path), "images": ".", "train": "x.csv"}
    config.write_text(json.dumps({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": source}}))
    pack([config], tmp_path / "packed", workers=1)
    (batch,) = batches(TarShards(str(tmp_path), shards="packed", **SIZE | {"batch_size": 3}), 1)
    assert sorted(batch["caption"]) == ["number 0", "number 1", "number 2"]


def test_changed_captions_are_not_mixed_with_packed_ones(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    config = tmp_path / "experiment.yaml"
    source = {"root": str(tmp_path), "images": ".", "train": "x.csv"}
    config.write_text(json.dumps({"data": {"class_path": "lit_blip2.data.coco.COCO", "init_args": source}}))
    (tmp_path / "x.csv").write_text("image,caption\n0.png,old\n")
    pack([config], tmp_path / "packed", workers=1)
    (tmp_path / "x.csv").write_text("image,caption\n0.png,new\n")
    with pytest.raises(ValueError, match=r"holds shards of .*, not of"):
        pack([config], tmp_path / "packed", workers=1)


def test_orders_travel_to_spawned_processes(shards):
    mixture = Mixture({"a": LAION(str(shards.parent)), "b": LAION(str(shards.parent), best=1)}, **SIZE)
    mixture.setup("fit")
    again = pickle.loads(pickle.dumps(mixture.pairs))
    places = np.arange(150)
    assert (again.order.at(3, places) == mixture.pairs.order.at(3, places)).all()


def test_a_mixture_in_a_mixture_is_refused(shards):
    inner = Mixture({"a": LAION(str(shards.parent))})
    with pytest.raises(ValueError, match="x: a mixture in a mixture"):
        Mixture({"x": inner})


def test_visual_genome_without_what_is_evaluated_on_warns(genome):
    with pytest.warns(UserWarning, match=r"name those to evaluate on in data\.evaluated"):
        VisualGenome(str(genome), **SIZE).train_pairs()
