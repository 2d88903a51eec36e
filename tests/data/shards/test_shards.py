"""Tar shards as img2dataset writes them, indexed and read by number; every fault is counted."""

import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_blip2.contents import DataError
from lit_blip2.data import tar_shards
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.data.shards import indexing
from lit_blip2.data.shards.folders import LocalFolder
from lit_blip2.data.shards.indexing import index_shards, list_shard
from lit_blip2.data.shards.reader import Shards, read_shards
from lit_blip2.data.tar_shards import TarShards
from lit_blip2.whole_files import alone


def jpeg(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


def write_members(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    return write_members(
        path, [(f"{key}.{end}", data) for key, files in samples.items() for end, data in files.items()]
    )


def sample(shade: int, caption: str) -> dict[str, bytes]:
    return {"jpg": jpeg(shade), "json": json.dumps({"caption": caption, "url": "x"}).encode(), "txt": caption.encode()}


@pytest.fixture
def folder(tmp_path):
    """Three shards of 4, 3 and 5 samples; shade 10 * shard + number."""
    for shard, count in enumerate((4, 3, 5)):
        samples = {f"{shard:05d}{i:04d}": sample(10 * shard + i, f"Caption {shard} {i}!") for i in range(count)}
        write_tar(tmp_path / "cc" / f"{shard:05d}.tar", samples)
    return tmp_path / "cc"


def test_samples_are_read_by_number(folder, capsys):
    index_shards(folder, workers=1)
    assert "12 samples in 3 shards" in capsys.readouterr().out
    shards = Shards(folder)
    assert len(shards) == 12 and shards.sizes == [4, 3, 5]
    for i, (shard, number) in enumerate([(s, n) for s, count in enumerate((4, 3, 5)) for n in range(count)]):
        assert shards.captions(i) == [f"caption {shard} {number}"]
        assert abs(shards.image(i).getpixel((0, 0))[0] - (10 * shard + number)) <= 1
        assert shards.image_bytes(i) == jpeg(10 * shard + number)
        assert shards.name(i) == f"{shard:05d}.tar/{shard:05d}{number:04d}.jpg"


def test_it_travels_to_a_worker_process_as_a_path(folder):
    index_shards(folder, workers=1)
    shards = Shards(folder, best=2, max_words=1)
    shards.image(3)
    sent = pickle.dumps(shards)
    again = pickle.loads(sent)
    assert len(sent) < 1000 and again.captions(11) == ["caption"] and again.image(11).size == (6, 4)


def test_of_many_captions_the_best_are_drawn(tmp_path):
    several = {"jpg": jpeg(1), "json": json.dumps(["First.", " ", "second", {"caption": "third"}]).encode()}
    inside = {"jpg": jpeg(1), "json": json.dumps({"caption": ["one", "two"]}).encode()}
    write_tar(tmp_path / "0.tar", {"a": several, "b": inside})
    index_shards(tmp_path, workers=1)
    assert [Shards(tmp_path).captions(i) for i in (0, 1)] == [["first", "second", "third"], ["one", "two"]]
    best = Shards(tmp_path, best=2)
    assert best.captions(0) == ["first", "second"]
    drawn = {best.draw(0, np.random.default_rng(seed)) for seed in range(30)}
    assert drawn == {"first", "second"}
    with pytest.raises(ValueError, match="best=0 must be at least 1"):
        Shards(tmp_path, best=0)


def test_what_is_left_out_is_counted_with_its_reason(tmp_path, capsys):
    faulty = {
        "no_image": {"txt": b"words"},
        "no_caption": {"jpg": jpeg(1)},
        "empty": {"jpg": jpeg(1), "txt": b" . "},
        "null": {"jpg": jpeg(1), "json": b'{"caption": null}'},
        "latin": {"jpg": jpeg(1), "txt": "caf\xe9".encode("latin-1")},
        "broken": {"jpg": jpeg(1), "json": b"{"},
        "good": sample(5, "fine"),
    }
    write_tar(tmp_path / "00000.tar", faulty)
    (tmp_path / "00000_stats.json").write_text('{"successes": 9}')
    index_shards(tmp_path, workers=1)
    said = capsys.readouterr().out
    (line,) = read_shards(tmp_path / "index")
    counts = {reason: entry["count"] for reason, entry in line["left_out"].items()}
    assert counts == {
        "no image": 1, "no caption, or an empty one": 3, "caption is not UTF-8": 1, "json is damaged": 1,
        "in _stats.json and not in the tar": 2,
    }  # fmt: skip
    assert "1 samples in 1 shards" in said and "caption is not UTF-8: 1 (00000.tar/latin)" in said
    assert Shards(tmp_path).captions(0) == ["fine"]


ONE = ("a.txt", b"one")
OTHER = "text file that says something else than the json"
TWICE, SEVERAL = "a name stands twice, with other contents", "several images of one name"


@pytest.mark.parametrize(
    ("members", "captions", "left_out"),
    [
        ([("a.jpg", jpeg(1)), ONE, ("a.jpg", jpeg(2)), ("a.txt", b"two")], [], {TWICE: 2}),
        (
            [("a.jpg", jpeg(1)), ONE, ("b.jpg", jpeg(3)), ("b.txt", b"b"), ("a.jpg", jpeg(2))],
            ["b"],
            {TWICE: 2},
        ),
        ([("a.jpg", jpeg(1)), ONE, ("a.txt", b"two")], [], {TWICE: 2}),
        ([("a.jpg", jpeg(1)), ("a.JPG", jpeg(2)), ONE], [], {TWICE: 2}),
        ([("a.jpg", jpeg(1)), ("a.jpg", jpeg(1)), ONE], ["one"], {}),
        ([("a.jpg", jpeg(1)), ("a.png", jpeg(2)), ONE], [], {SEVERAL: 1}),
        ([("a.jpg", jpeg(1)), ("a.mask.png", jpeg(2)), ONE], ["one"], {}),
        ([("x/a.jpg", jpeg(1)), ("y/a.jpg", jpeg(2)), ("x/a.txt", b"x"), ("y/a.txt", b"y")], ["x", "y"], {}),
        ([("A.jpg", jpeg(1)), ("A.txt", b"big"), ("a.jpg", jpeg(2)), ("a.txt", b"small")], ["big", "small"], {}),
        ([("b.txt", b"b"), ("a.txt", b"a"), ("a.jpg", jpeg(1)), ("b.jpg", jpeg(2))], ["b", "a"], {}),
        ([("a.jpg", jpeg(1)), ONE, ("a.json", b'{"caption": "two"}')], ["two"], {OTHER: 1}),
        ([("a.jpg", jpeg(1)), ("a.txt", b"Web."), ("a.json", b'["two", "one"]')], ["two", "one"], {}),
        ([("a.jpg", jpeg(1)), ("a.txt", b"One."), ("a.json", b'{"caption": "one"}')], ["one"], {}),
        ([("a.jpg", jpeg(1)), ("a.json", b'["one", 7]')], [], {"caption is no text": 1}),
        ([("a.jpg", jpeg(1)), ("a.json", b'{"caption": 0}'), ("a.txt", b"a")], [], {"caption is no text": 1}),
        ([("a.jpg", jpeg(1)), ("a.json", b'{"caption": "one", "caption": "two"}')], [], {"json is damaged": 1}),
        ([("a.jpg", jpeg(1)), ("a.json", b'["one", " ", null]')], ["one"], {"caption that is empty beside others": 2}),
        (
            [("a.jpg", jpeg(1)), ("a.json", b"{\"caption\": \"['two', 'one']\"}"), ("a.txt", b"['two', 'one']")],
            ["two", "one"],
            {},
        ),
        ([("a.jpg", jpeg(1)), ("a.txt", b'["two", "one"]')], ["two", "one"], {}),
        ([("a.jpg", jpeg(1)), ("a.json", b'{"caption": " . "}'), ("a.txt", "\ufeffone".encode())], ["one"], {}),
    ],
)
def test_no_image_is_given_another_text_and_no_sample_is_lost_unsaid(tmp_path, members, captions, left_out):
    raw = write_members(tmp_path / "0.tar", members).read_bytes()
    listed = list_shard(LocalFolder(tmp_path), "0.tar")
    assert [text for texts in listed.captions for text in texts] == captions
    assert {reason: entry["count"] for reason, entry in listed.left_out.items()} == left_out
    own = {name.rsplit(".", 1)[0]: data for name, data in members if name.lower().endswith("jpg")}
    text_of = {data.decode("utf-8-sig"): name[:-4] for name, data in members if name.endswith("txt")}
    for (begin, size), (text, *_) in zip(listed.images, listed.captions, strict=True):
        assert text not in text_of or raw[begin : begin + size] == own[text_of[text]]


def test_each_line_of_a_text_is_a_caption(tmp_path, capsys):
    """As in tars of COCO or Flickr30k, whose images have five captions in one text."""
    texts = ["A cow.\r\n\r\ntwo cows \n", "one\u2028line", "a\n . \n", "x\ny"]
    samples = {f"{i}": {"jpg": jpeg(i), "txt": text.encode()} for i, text in enumerate(texts)}
    samples["4"] = {"jpg": jpeg(4), "json": b'{"caption": "a\\nb"}', "txt": b"a\nb"}
    write_tar(tmp_path / "0.tar", samples)
    index_shards(tmp_path)
    assert "5 samples in 1 shards" in (said := capsys.readouterr().out) and "2 texts have several lines" in said
    shards = Shards(LocalFolder(tmp_path), tmp_path / "index")
    expected = [["a cow", "two cows"], ["one line"], ["a"], ["x", "y"], ["a b"]]
    assert [shards.captions(sample) for sample in range(5)] == expected
    left_out = {reason: entry["count"] for reason, entry in shards.shards[0]["left_out"].items()}
    assert left_out == {"caption that is empty beside others": 1}


def test_links_and_sparse_files_are_left_out_and_counted(tmp_path):
    """GNU tar writes the second name of a file as a link."""
    write_tar(tmp_path / "0.tar", {"a": sample(1, "fine"), "c": {"txt": b"c"}})
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        for name, kind in (("b.jpg", tarfile.LNKTYPE), ("b.txt", tarfile.LNKTYPE), ("c.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, f"a.{name[-3:]}"
            tar.addfile(member)
    listed = list_shard(LocalFolder(tmp_path), "0.tar")
    assert listed.captions == [["fine"]]
    assert listed.left_out == {"a link or a sparse file": {"count": 2, "examples": ["0.tar/c", "0.tar/b"]}}


def test_a_null_in_json_leaves_the_text_file_to_speak(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": {"jpg": jpeg(1), "json": b'{"caption": null}', "txt": b"words"}})
    assert list_shard(LocalFolder(tmp_path), "0.tar").captions == [["words"]]


def test_a_cut_shard_gives_what_stands_before_the_cut(folder, capsys):
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[: 3 * 3 * 1024 - 700])
    index_shards(folder, workers=1)
    shards = Shards(folder)
    said = capsys.readouterr().out
    assert "shard ends or is damaged here" in said and "00001.tar after" in said
    assert len(shards) < 12 and shards.captions(len(shards) - 1) == ["caption 2 4"]


def damaged(content: bytes, how: str) -> bytes:
    header = 7 * 512  # of the second sample: the first has three headers, and four blocks of contents
    if how == "cut between members":
        return content[:header]
    if how == "cut in a header":
        return content[: header + 100]
    if how == "a damaged header":
        return content[:header] + b"x" * 512 + content[header + 512 :]
    return content + content  # two tars, one behind the other


@pytest.mark.parametrize("how", ["cut between members", "cut in a header", "a damaged header", "joined"])
def test_no_damage_of_a_shard_passes_for_its_end(folder, capsys, how):
    path = folder / "00002.tar"
    path.write_bytes(damaged(path.read_bytes(), how))
    index_shards(folder, workers=1)
    assert "left out, shard ends or is damaged here: 1 (00002.tar after" in capsys.readouterr().out


def test_two_indexers_do_not_meet(folder):
    with alone(folder / "index"), pytest.raises(OSError, match=r"another process is writing .*index"):
        index_shards(folder, workers=1)


def test_half_a_surrogate_pair_is_left_out(tmp_path, capsys):
    write_tar(tmp_path / "0.tar", {"a": {"jpg": jpeg(1), "json": b'["\\ud800"]'}, "b": sample(2, "fine")})
    index_shards(tmp_path, workers=1)
    assert "caption is not UTF-8: 1 (0.tar/a)" in capsys.readouterr().out and len(Shards(tmp_path)) == 1


def test_an_interrupted_index_is_gone_on_with(folder, monkeypatch):
    whole, part = folder / "whole", folder / "index.part"
    index_shards(folder, whole, workers=1)
    indexing._resume(part, LocalFolder(folder).sizes())
    line = None
    for name in ("00000.tar", "00001.tar"):
        line = indexing._append(part, list_shard(LocalFolder(folder), name), line)
    with (part / "captions.bin").open("ab") as file:  # a third was begun
        file.write(b"half a capt")
    with (part / "shards.jsonl").open("ab") as file:
        file.write(b'{"name": "00002.ta')
    listed = []
    monkeypatch.setattr(indexing, "track", lambda shards, *_, **__: (listed.append(each) or each for each in shards))
    index_shards(folder, workers=1)
    assert [shard.name for shard in listed] == ["00002.tar"]
    for file in whole.iterdir():
        assert (folder / "index" / file.name).read_bytes() == file.read_bytes()


def test_an_index_that_fits_is_left_and_another_refused(folder, capsys):
    index_shards(folder, workers=1)
    index_shards(folder, workers=1)
    assert "index is there, with 12 samples" in capsys.readouterr().out
    write_tar(folder / "00003.tar", {"x": sample(1, "more")})
    with pytest.raises(ValueError, match=r"1 differ, among them 00003\.tar\. Remove"):
        index_shards(folder, workers=1)


def test_a_shard_that_has_changed_is_an_error(folder):
    index_shards(folder, workers=1)
    write_tar(folder / "00002.tar", {f"x{i}": sample(1, "longer than it was") for i in range(99)})
    with pytest.raises(ValueError, match=r"00002\.tar has \d+ bytes, and had \d+ when"):
        Shards(folder)
    (folder / "00002.tar").unlink()
    with pytest.raises(ValueError, match=r"00002\.tar is gone"):
        Shards(folder)


def rewritten(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    size = path.stat().st_size
    write_tar(path, samples)
    assert path.stat().st_size == size
    os.utime(path, (time.time() + 9, time.time() + 9))


def test_an_image_is_not_given_the_text_of_another_after_a_shard_was_rewritten(tmp_path):
    """Of one size: tars are padded."""
    shown = {"dark": sample(10, "dark"), "light": sample(200, "light")}
    path = write_tar(tmp_path / "0.tar", shown)
    index_shards(tmp_path, workers=1)
    rewritten(path, dict(reversed(shown.items())))
    with pytest.raises(ValueError, match=r"0\.tar holds another image at byte 512 than when .*index was made: remove"):
        Shards(tmp_path).image(0)
    with pytest.raises(ValueError, match=r"1 differ, among them 0\.tar\. Remove"):
        index_shards(tmp_path, workers=1)


def test_captions_that_were_changed_after_the_index_are_seen(tmp_path):
    path = write_tar(tmp_path / "0.tar", {"a": sample(10, "a bird"), "b": {"txt": b"no image"}})
    write_tar(tmp_path / "1.tar", {"c": {"txt": b"no image"}})
    index_shards(tmp_path, workers=1)
    data = TarShards(root=str(tmp_path), shards=".", image_size=8, batch_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_shards, "rank_zero_info", (told := []).append)
        data.train_pairs()
        assert not told
        rewritten(path, {"a": sample(10, "a bird"), "b": {"txt": b"no image"}})  # a copy, with another date
        data.train_pairs()
    assert told == [f"1 shards are newer than {tmp_path / 'index'}, such as 0.tar: `data index` compares the two"]
    index_shards(tmp_path, workers=1)
    assert Shards(tmp_path).captions(0) == ["a bird"]
    rewritten(path, {"a": sample(10, "a fish"), "b": {"txt": b"no image"}})
    with pytest.raises(ValueError, match=r"1 differ, among them 0\.tar\. Remove"):
        index_shards(tmp_path, workers=1)


def test_an_index_of_before_without_headers_and_checksums_is_read(folder):
    index_shards(folder, workers=1)
    (folder / "index" / "headers.bin").unlink()
    lines = read_shards(folder / "index")
    for line in lines:
        del line["crc32"], line["sizes"]["headers.bin"]
    (folder / "index" / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Shards(folder).image(11).size == (6, 4)


@pytest.mark.parametrize("name", indexing.ARRAYS)
def test_a_half_copied_index_is_refused(folder, name):
    index_shards(folder, workers=1)
    file = folder / "index" / name
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:]):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name} (has .* and had|is damaged).*: remove that folder and run"):
            Shards(folder)


@pytest.mark.parametrize(
    "name", ["../00000.tar", "/etc/hosts", "a/b.tar", "..", "", "x\0.tar", "\x1b[2J.tar", "a" * 256]
)
def test_a_shard_outside_its_folder_is_refused(folder, name):
    index_shards(folder, workers=1)
    lines = read_shards(folder / "index")
    lines[1]["name"] = name
    (folder / "index" / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"shards\.jsonl: line 2 names .*shards lie in one folder"):
        Shards(folder)


def test_an_unreadable_image_is_named(tmp_path):
    write_tar(tmp_path / "7.tar", {"a": sample(1, "x"), "b": {"jpg": jpeg(2)[:200], "txt": b"cut"}})
    index_shards(tmp_path, workers=1)
    with pytest.raises(UnreadableImageError, match=r"7\.tar/b\.jpg: (truncated|no image|damaged)"):
        Shards(tmp_path).image(1)


def test_without_index_or_shards_it_says_what_to_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m lit_blip2 data index"):
        Shards(folder)
    with pytest.raises(FileNotFoundError, match=r"no \*\.tar in"):
        index_shards(tmp_path / "nothing")
    write_tar(tmp_path / "empty" / "0.tar", {"a": {"txt": b"x"}})
    with pytest.raises(ValueError, match="no sample with an image and a caption"):
        index_shards(tmp_path / "empty", workers=1)


@pytest.mark.parametrize("name", ["00001.tar.gz", "00001.tgz", "00001.TAR", "00001.tar.zst", "more/00001.tar"])
def test_what_looks_like_a_shard_and_is_not_read_is_named(folder, capsys, name):
    (folder / "more").mkdir()
    (folder / "00001.tar").rename(folder / name)
    (folder / "00001.parquet").touch()
    for _ in range(2):  # also where the index is there
        index_shards(folder, workers=1)
        said = capsys.readouterr().out
        assert "9 samples" in said
        assert f"not in the index: 1 files that look like shards ({name}); only files that end in .tar" in said
    for shard in ("00000.tar", "00002.tar"):
        (folder / shard).rename(folder / f"{shard}.gz")
    with pytest.raises(
        FileNotFoundError, match=r"no \*\.tar in .*cc: 3 files that look like shards \(00000\.tar\.gz, "
    ):
        index_shards(folder)


def test_what_a_sample_needs_is_mapped(folder):
    index_shards(folder, workers=1)
    shards = Shards(folder)
    arrays = [shards.images_N2, shards.first_N, shards.texts.buffer, shards.texts.offsets]
    assert all(isinstance(array, np.memmap) for array in arrays)
