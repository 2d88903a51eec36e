"""Links: those of the user are followed, those that lead out of what a program has written are refused by name."""

import io
import shutil
import tarfile

import pytest
import torch

from lit_blip2.ablation.report.page import write_report
from lit_blip2.ablation.run import fingerprint
from lit_blip2.commands.compare import find_items
from lit_blip2.contents import DataError
from lit_blip2.data.coco import COCO
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.images import load_image
from lit_blip2.data.shards.folders import LocalFolder, RemoteFolder
from lit_blip2.data.shards.indexing import index_shards, list_shard
from lit_blip2.data.shards.reader import Shards
from lit_blip2.links import below, check_links
from lit_blip2.runs import find_checkpoint
from tests.ablation.conftest import SweepFolder
from tests.data.conftest import arguments, tiny  # noqa: F401 (fixtures)
from tests.data.shards.test_shards import sample, write_tar

OUT = r"{} leads out of .*, to .*, by a link"


def moved_away(file, away):
    """A file or folder that lies elsewhere, and a link to it in its place."""
    away.mkdir(exist_ok=True)
    target = shutil.move(file, away / file.name)
    file.symlink_to(target)
    return file


def linked(folder, place):
    """A folder by another name, a link that the user has made."""
    place.symlink_to(folder)
    return place


# ------------------------------------------------------------------------------------------------- a user's own data


def test_links_in_a_circle_come_to_an_end(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/2.jpg").write_bytes(b"2")
    (tmp_path / "a/1.jpg").write_bytes(b"1")
    (tmp_path / "a/b/up").symlink_to(tmp_path / "a")
    (tmp_path / "a/itself").symlink_to(tmp_path / "a/itself")
    (tmp_path / "a/disk").symlink_to(tmp_path / "elsewhere")
    assert [str(file.relative_to(tmp_path / "a")) for file in below(tmp_path / "a")] == [
        "1.jpg",
        "disk/2.jpg",
        "itself",
    ]
    before = fingerprint.of_path(str(tmp_path / "a"))
    (tmp_path / "elsewhere/2.jpg").write_bytes(b"longer")
    assert fingerprint.of_path(str(tmp_path / "a")) != before


def test_data_behind_links_are_read(tiny, arguments, tmp_path):  # noqa: F811
    """The root, a folder of images, a file of annotations and a single image: each on another disk."""
    own = tmp_path / "disk/coco"
    shutil.copytree(tiny, own)
    root = linked(own, tmp_path / "coco")
    moved_away(own / "images/train", tmp_path / "second disk")
    moved_away(own / "annotations/captions_train.json", tmp_path / "third disk")
    moved_away(own / "images/train/000000000101.png", tmp_path / "fourth disk")
    features = moved_away(own / "features", tmp_path / "fifth disk")
    data = COCO(**(arguments | {"root": str(root)}))
    data.check_files("fit")
    assert len(data.train_pairs()) == 8 and load_image(root / "images/train/000000000101.png").size == (20, 16)
    assert len(FeatureStore(features / "train")) == 8


def test_shards_behind_links_are_read(tmp_path):
    write_tar(tmp_path / "cc/0.tar", {"a": sample(1, "fine")})
    moved_away(tmp_path / "cc/0.tar", tmp_path / "disk")
    folder = linked(tmp_path / "cc", tmp_path / "data")
    index_shards(folder, None, workers=1)
    moved_away(folder / "index", tmp_path / "fast disk")
    assert Shards(folder).captions(0) == ["fine"] and Shards(folder).image(0).size == (6, 4)


# ------------------------------------------------------------------------------------------ what somebody else has sent


@pytest.mark.parametrize("name", ["images.bin", "captions.bin", "shards.jsonl", "more"])
def test_an_index_that_leads_elsewhere_is_refused(tmp_path, name):
    write_tar(tmp_path / "cc/0.tar", {"a": sample(1, "fine")})
    index_shards(tmp_path / "cc", None, workers=1)
    (tmp_path / "cc/index/more").touch()
    moved_away(tmp_path / "cc/index" / name, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=OUT.format(f"cc/index/{name}")):
        Shards(tmp_path / "cc")


@pytest.mark.parametrize("name", ["features.json", "00000.safetensors", "image_ids.npy"])
def test_features_that_lead_elsewhere_are_refused(tiny, tmp_path, name):  # noqa: F811
    section = shutil.copytree(tiny / "features/train", tmp_path / "features/train")
    moved_away(section / name, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=OUT.format(f"train/{name}")):
        FeatureStore(section)


def test_a_shard_in_the_cache_is_no_link(tmp_path):
    write_tar(tmp_path / "cc/0.tar", {"a": sample(1, "fine")})
    remote = RemoteFolder(f"file://{tmp_path}/cc", tmp_path / "cache", 1 << 30)
    remote.folder.mkdir(parents=True)
    (remote.folder / "0.tar").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=OUT.format("/0.tar")):
        remote.read("0.tar", 0, 512)
    (remote.folder / "0.tar").unlink()
    assert len(remote.read("0.tar", 0, 512)) == 512


def test_a_cache_behind_a_link_is_refused_and_what_lies_there_stays(tmp_path):
    """A folder's name in the cache is a function of the URL: whoever sends a cache can know it."""
    write_tar(tmp_path / "cc/0.tar", {"a": sample(1, "fine")})
    remote = RemoteFolder(f"file://{tmp_path}/cc", tmp_path / "cache", most_bytes=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")
    remote.folder.parent.mkdir()
    remote.folder.symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match=OUT.format(remote.folder.name)):
        remote.read("0.tar", 0, 512)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["index.part", "index.part/images.bin", "index.part/shards.jsonl"])
def test_no_index_is_written_through_a_link(tmp_path, name):
    write_tar(tmp_path / "cc/0.tar", {"a": sample(1, "fine")})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years")
    link = tmp_path / "cc" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "mine" / ("" if name == "index.part" else "thesis.tex"))
    with pytest.raises(DataError, match=OUT.format(name)):
        index_shards(tmp_path / "cc", None, workers=1)
    assert [(file.name, file.read_text()) for file in (tmp_path / "mine").iterdir()] == [("thesis.tex", "years")]


def test_what_a_tar_names_elsewhere_is_not_looked_for(tmp_path):
    """Its links are left out and counted; a name that leads out of it is a name alone, for nothing is unpacked."""
    (tmp_path / "secret.jpg").write_bytes(sample(1, "x")["jpg"])
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            for ending, link in (("jpg", str(tmp_path / "secret.jpg")), ("txt", "../../etc/passwd")):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.type, member.linkname = kind, link
                tar.addfile(member)
        for ending, content in sample(2, "kept").items():
            member = tarfile.TarInfo(f"../../outside.{ending}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    listed = list_shard(LocalFolder(tmp_path), "0.tar")
    assert listed.captions == [["kept"]] and listed.left_out["a link or a sparse file"]["count"] == 2
    assert not (tmp_path.parent.parent / "outside.jpg").exists()


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint in it."""
    folder = tmp_path / "sent/version_0"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("lr: 1\n")
    held = {"state_dict": {"x": torch.zeros(3)}, "global_step": 3, "config": "lr: 1\n"}
    torch.save(held, folder / "checkpoints/step=3.ckpt")
    return folder


def test_a_runs_own_links_and_a_link_to_a_run_are_followed(run, tmp_path):
    """Lightning links last.ckpt to the file beside it where it is asked to."""
    (run / "checkpoints/last.ckpt").symlink_to("step=3.ckpt")
    (run / "gone").symlink_to("nothing")
    check_links(run)
    assert find_checkpoint(run).parent == run / "checkpoints"
    other = linked(run, tmp_path / "mine")
    assert find_checkpoint(other).parent == other / "checkpoints"
    named = linked(run / "checkpoints/step=3.ckpt", tmp_path / "best.ckpt")
    assert find_checkpoint(named) == named


@pytest.mark.parametrize("name", ["checkpoints/step=3.ckpt", "config.yaml"])
def test_a_run_that_leads_elsewhere_is_refused(run, tmp_path, name):
    moved_away(run / name, tmp_path / "elsewhere")
    for folder in (run, run.parent):
        with pytest.raises(DataError, match=OUT.format(name)):
            find_checkpoint(folder)


def test_the_tests_of_a_run_that_leads_elsewhere_are_not_compared(run, tmp_path):
    (run / "items.npz").touch()
    (run / "decoding.json").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match=OUT.format("version_0/decoding.json")):
        find_items(run)


@pytest.mark.parametrize("name", ["plots", "runs/stage1/a", "report.md"])
def test_no_report_is_written_through_a_link(tmp_path, name):
    sweep = SweepFolder(tmp_path / "sweep")
    sweep.plan |= {"axes": {"itc": ["on"]}, "seeds": [0], "metrics": ["loss/itc"]}
    sweep.step("stage1/a")
    sweep.cell({"itc": "on"}, 0, ["stage1/a"], {"loss/itc": "stage1/a"})
    sweep.write()
    assert write_report(linked(tmp_path / "sweep", tmp_path / "mine"))
    shutil.rmtree(tmp_path / "sweep/plots")
    (tmp_path / "sweep/report.md").unlink()
    (tmp_path / "theirs").mkdir()
    place = tmp_path / "sweep" / name
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(tmp_path / "theirs")
    with pytest.raises(DataError, match=OUT.format(name)):
        write_report(tmp_path / "sweep")
    assert not [*(tmp_path / "theirs").iterdir()]
