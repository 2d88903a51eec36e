"""Shards behind a URL: indexed, downloaded once, kept within the bound, and trained on as those on disk."""

import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from lit_blip2.commands.data import main
from lit_blip2.data.batches.loaders import train_loader
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.data.laion import LAION
from lit_blip2.data.shards import folders as shard_folders
from lit_blip2.data.shards.folders import RemoteFolder
from lit_blip2.data.shards.indexing import index_shards
from lit_blip2.data.shards.reader import Shards
from tests.data.shards.test_shards import jpeg, sample, write_tar


@pytest.fixture
def folder(tmp_path):
    """Six shards of three images, all of one size."""
    for number in range(6):
        many = {f"{number}{i}": sample(20 * number + i, f"Laion {number} {i}") for i in range(3)}
        write_tar(tmp_path / "web/laion" / f"{number:05d}.tar", many)
    return tmp_path / "web/laion"


@pytest.fixture
def served(folder):
    """(the URL of that folder, what was asked for and how often)."""
    asked: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked[self.path.rsplit("/", 1)[-1]] += 1
            super().do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/laion", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(shard_folders.time, "sleep", lambda seconds: None)


@pytest.mark.parametrize("names", ["", "/{00000..00005}.tar"], ids=["listed", "braces"])
def test_an_index_of_a_url_is_that_of_the_folder(served, folder, tmp_path, names, capsys):
    url, asked = served
    assert main(["index", url + names, "--out", str(tmp_path / "index"), "--workers=1"]) == 0
    assert "18 samples in 6 shards" in capsys.readouterr().out
    index_shards(folder, workers=1)
    assert all(asked[f"{number:05d}.tar"] == 1 for number in range(6))
    for file in (folder / "index").iterdir():
        assert (tmp_path / "index" / file.name).read_bytes() == file.read_bytes()
    assert main(["index", url + names, "--out", str(tmp_path / "index")]) == 0
    assert "is there, with 18 samples" in capsys.readouterr().out
    assert main(["index", url]) == 2 and "give --out" in capsys.readouterr().err


def test_a_packed_shard_behind_a_url_is_named(served, folder):
    (folder / "00004.tar").rename(folder / "00004.tar.gz")
    assert RemoteFolder(served[0]).passed_over() == ["00004.tar.gz"]
    assert RemoteFolder(f"{served[0]}/{{00000..00003}}.tar").passed_over() == []


def data(tmp_path, shards: str, **more) -> LAION:
    sizes = dict(image_size=8, augment=True, batch_size=3, seed=4)
    return LAION(root=str(tmp_path), shards=shards, **sizes, **more)


def test_training_reads_each_shard_once_in_a_window_and_the_same_batches_as_from_disk(served, folder, tmp_path):
    url, asked = served
    index_shards(folder, workers=1)
    shutil.copytree(folder / "index", tmp_path / "index")
    size = (folder / "00000.tar").stat().st_size
    remote = data(tmp_path, url, index="index", cache="cache", cache_gb=5 * size / 1e9, window=2)
    local = data(tmp_path, "web/laion", window=2)
    assert remote.train_files() == [tmp_path / "index" / "shards.jsonl"]
    batches = {}
    for each in (remote, local):
        each.setup("fit")
        batches[each] = list(train_loader(TrainPairs(each.pairs, each.seed), 3, 0, 12))  # two epochs
    assert each.pairs.name == remote.pairs.name == "laion"
    for one, other in zip(batches[remote], batches[local], strict=True):
        assert one["caption"] == other["caption"] and torch.equal(one["image"], other["image"])
    downloads = [asked[f"{number:05d}.tar"] for number in range(6)]
    assert all(1 <= count <= 2 for count in downloads), downloads
    kept = list((tmp_path / "cache").rglob("*.tar"))
    assert 2 <= len(kept) <= 5 and not list((tmp_path / "cache").rglob("*.part"))
    assert (torch.cat([batch["image_id"] for batch in batches[remote][:6]]).sort().values == torch.arange(18)).all()


def test_the_cache_keeps_to_its_bound_and_forgets_what_was_read_longest_ago(served, folder, tmp_path):
    url, asked = served
    size = (folder / "00000.tar").stat().st_size
    remote = RemoteFolder(url, tmp_path / "cache", 2 * size)
    remote.check(dict.fromkeys((f"{number:05d}.tar" for number in range(6)), size))
    for number in (0, 1, 0, 2):
        assert len(remote.read(f"{number:05d}.tar", 0, 512)) == 512
    assert sorted(file.name for file in (tmp_path / "cache").rglob("*.tar")) == ["00000.tar", "00002.tar"]
    remote.read("00001.tar", 512, 512)
    assert asked["00001.tar"] == 2 and asked["00000.tar"] == 1


def test_readers_that_want_one_shard_at_once_download_it_once(served, folder, tmp_path):
    url, asked = served
    remotes = [RemoteFolder(url, tmp_path / "cache", 1 << 30) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        read = set(pool.map(lambda remote: remote.read("00003.tar", 0, 700), remotes))
    assert asked["00003.tar"] == 1 and read == {(folder / "00003.tar").read_bytes()[:700]}


def test_what_is_removed_while_it_is_read_is_downloaded_again(served, folder, tmp_path, monkeypatch):
    url, asked = served
    remote = RemoteFolder(url, tmp_path / "cache", 1 << 30)
    path_of, removed = remote.path, []

    def path_then_gone(name):
        path = path_of(name)
        if not removed:
            removed.append(path)
            path.unlink()
        return path

    monkeypatch.setattr(remote, "path", path_then_gone)
    assert remote.read("00001.tar", 0, 10) == (folder / "00001.tar").read_bytes()[:10]
    assert asked["00001.tar"] == 2


def test_faults_of_the_server_name_the_url(served, folder, tmp_path, monkeypatch):
    url, _ = served
    remote = RemoteFolder(url, tmp_path / "cache", 1 << 30)
    with pytest.raises(FileNotFoundError, match=f"{url}/00009.tar is not there"):
        remote.read("00009.tar", 0, 10)
    remote.check({"00001.tar": 1})
    with pytest.raises(ValueError, match=r"00001\.tar has \d+ bytes, and had 1"):
        remote.read("00001.tar", 0, 10)
    gone = RemoteFolder("http://127.0.0.1:9/laion", tmp_path / "cache", 1 << 30)
    with pytest.raises(OSError, match=r"cannot download http://127.0.0.1:9/laion/0\.tar, tried 3 times"):
        gone.read("0.tar", 0, 10)


def test_a_url_needs_an_index_a_cache_and_room_for_two_windows(served, folder, tmp_path):
    url, _ = served
    with pytest.raises(ValueError, match=r"needs data\.index, data\.cache, and a data\.window"):
        data(tmp_path, url, index="index")
    with pytest.raises(FileNotFoundError, match=f"index {url} --out .*index"):
        Shards(RemoteFolder(url), tmp_path / "index")
    index_shards(folder, out=tmp_path / "index", workers=1)
    small = data(tmp_path, url, index="index", cache="cache", cache_gb=1e-5, window=2)
    with pytest.raises(ValueError, match=r"cache_gb=1e-05 is too small .* two windows of 2 shards have up to"):
        small.setup("fit")


def test_stats_beside_a_remote_shard_are_compared(served, folder, tmp_path, capsys):
    url, _ = served
    (folder / "00002_stats.json").write_text('{"successes": 5}')
    write_tar(folder / "00004.tar", {"a": {"jpg": jpeg(1)}})
    index_shards(url, tmp_path / "index", workers=1)
    said = capsys.readouterr().out
    assert "in _stats.json and not in the tar: 2" in said and "no caption, or an empty one: 1" in said


def test_what_is_in_the_cache_and_not_what_the_index_knows_is_downloaded_again(served, folder, tmp_path):
    url, asked = served
    remote = RemoteFolder(url, tmp_path / "cache", 1 << 30)
    remote.folder.mkdir(parents=True)
    (remote.folder / "00001.tar").write_bytes(b"of another time")
    remote.check({"00001.tar": (folder / "00001.tar").stat().st_size})
    assert remote.read("00001.tar", 0, 700) == (folder / "00001.tar").read_bytes()[:700] and asked["00001.tar"] == 1


def test_urls_that_look_alike_have_folders_of_their_own(tmp_path):
    names = {
        RemoteFolder(url, tmp_path).folder for url in ("s3://b/laion-400m", "s3://b/laion/400m", "s3://b/laion_400m")
    }
    assert len(names) == 3


@pytest.mark.parametrize("url", ["https://h/{a,b}/{0..3}.tar", "https://h/{0..5}.tar?token=a/b"])
def test_urls_that_cannot_be_taken_apart_are_refused(url):
    with pytest.raises(ValueError, match="braces may stand in the last part only, and no"):
        RemoteFolder(url)


def test_a_folder_that_cannot_be_listed_says_what_to_do(served):
    with pytest.raises(FileNotFoundError, match=r"nowhere cannot be listed: name the shards, .*/\{00000"):
        RemoteFolder(served[0] + "/nowhere").sizes()
