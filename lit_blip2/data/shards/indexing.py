"""`python -m lit_blip2 data index DIR`: makes an index of tar shards in parallel, and continues after an interruption.

A sample is the members of a shard that share a key: their name up to its first dot. It needs one image and a non-empty
caption. Captions come from `.json`, a dict with "caption" or a list (CapFilt), else from `.txt`, one per line. A sample
that lacks an image or caption, or has two and no rule to choose, is left out, counted by reason with examples, and
reported.
"""

import json
import os
import re
import tarfile
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from lit_blip2.contents import LONGEST_NAME, DataError, check_regular, once_each, parsed_json
from lit_blip2.data.annotations.captions import clean_caption
from lit_blip2.data.annotations.entries import Entry, listed_texts, read_json
from lit_blip2.data.shards.folders import LocalFolder, RemoteFolder, is_url, shard_folder
from lit_blip2.data.shards.reader import ARRAYS, INDEX, Shards, crc32_of, read_shards
from lit_blip2.links import check_inside, check_links
from lit_blip2.terminal import printable, say
from lit_blip2.whole_files import alone

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
MOST_EXAMPLES = 5
_LINE_END = re.compile(r"\r\n?|\n")  # and no other: U+2028 may stand in a caption
# Types of members that extend the next member's header. tarfile reads one at once; MOST_HEADER is its largest size.
PAX_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
LONG_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *PAX_HEADERS)
MOST_HEADER = 1 << 20


@dataclass
class Listed:
    """What a shard holds. images: begin and size in bytes of each sample's image. headers: the CRC-32 of the header
    before each image. captions: of each sample. left_out: reason -> count, examples. lost: number of samples left out;
    left_out also counts single captions and texts. several_lines: samples whose text has several lines, each a
    caption."""

    name: str
    bytes: int
    images: list[tuple[int, int]] = field(default_factory=list)
    headers: list[int] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    left_out: dict[str, dict] = field(default_factory=dict)
    lost: int = 0
    several_lines: int = 0

    def leave_out(self, reason: str, example: str, count: int = 1, samples: int | None = None) -> None:
        """Count what is left out. samples: how many samples are lost by it, by default `count`."""
        self.lost += count if samples is None else samples
        entry = self.left_out.setdefault(reason, {"count": 0, "examples": []})
        entry["count"] += count
        entry["examples"] += [printable(example)] if len(entry["examples"]) < MOST_EXAMPLES else []


def index_shards(folder: str | Path, out: Path | None = None, workers: int = 0) -> None:
    """Index the tar shards of a folder, as img2dataset writes them, so that training can read samples by number.

    It prints which samples are left out and why, and keeps this in the index. It also lists files that look like
    shards but are not read, such as *.tar.gz. An existing index that fits is kept; shards newer than the index are
    read again and compared with it.

    Args:
        folder: folder of *.tar files; or a URL such as s3://bucket/cc3m or https://host/{00000..00331}.tar, whose
            shards are downloaded once and not kept.
        out: folder of the index; null: FOLDER/index. A URL needs one.
        workers: number of processes that read; 0: one for each core.
    Raises:
        FileNotFoundError: the folder holds no shards.
        ValueError: the index belongs to other shards, or no sample can be read.
    """
    if out is None and is_url(folder):
        raise ValueError(f"the index of {folder} needs a folder on disk: give --out")
    place, out = shard_folder(folder), out or Path(folder) / INDEX
    shards = place.sizes()
    others = _said_of_others(place.passed_over())
    if not shards:
        raise FileNotFoundError(f"no *.tar in {folder}{others}")
    with alone(out):
        if out.exists():
            _check_same(out, shards)
            _check_newer(place, out)
            say(f"{out} is there, with {sum(shard['samples'] for shard in read_shards(out)):,} samples.")
        else:
            _index(place, shards, out, workers)
    if others:
        say(f"not in the index{others}")


def _said_of_others(names: list[str]) -> str:
    """A message about files that look like shards but are not read, and what to do. Empty if there are none."""
    shown = ", ".join(names[:MOST_EXAMPLES]) + (", ..." if len(names) > MOST_EXAMPLES else "")
    todo = "only files that end in .tar and lie in the folder itself are read: unpack, rename or move them"
    return f": {len(names):,} files that look like shards ({shown}); {todo}" if names else ""


def _index(place: LocalFolder | RemoteFolder, shards: dict[str, int | None], out: Path, workers: int) -> None:
    part = out.with_name(f"{out.name}.part")
    check_inside(part.parent, [part])
    if part.is_dir():
        check_links(part)  # it is written into
    done = _resume(part, shards)
    todo, line = list(shards)[len(done) :], done[-1] if done else None
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        listed = pool.map(partial(list_shard, place), todo)
        for shard in track(listed, "shards", total=len(todo)):
            line = _append(part, shard, line)
    lines = read_shards(part)
    if not sum(line["samples"] for line in lines):
        raise ValueError(f"{place}: {len(shards)} shards and no sample with an image and a caption\n{summary(lines)}")
    part.rename(out)
    say(summary(lines))


def list_shard(place: LocalFolder | RemoteFolder, name: str) -> Listed:
    """Read one shard's captions, and where its images are."""
    with place.at_hand(name) as path:
        return _list(path)


def _list(path: Path) -> Listed:
    check_regular(path)
    listed, members_of = Listed(path.name, path.stat().st_size), {}
    damage = _read_headers(path, members_of)
    if members_of:
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            for key, members in members_of.items():
                _add(listed, tar, key, members)
    if damage:
        listed.leave_out("shard ends or is damaged here", f"{listed.name} after {len(listed.images)} samples: {damage}")
    _compare(listed, path.with_name(f"{path.stem}_stats.json"))
    return listed


class Header(tarfile.TarInfo):
    """A member's header. Raises HeaderError for a negative size, and for a header extension that is too large."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "Header":
        made = super().frombuf(buf, encoding, errors)
        if made.size < 0 or (made.type in LONG_HEADERS and made.size > MOST_HEADER):
            raise tarfile.HeaderError(f"a header says that {made.size:,} bytes follow it")
        return made

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "Header":
        begin, block = tar.fileobj.tell(), tar.fileobj.read(tarfile.BLOCKSIZE)
        if block[156:157] in PAX_HEADERS:
            _check_records(tar.fileobj.read(cls.frombuf(block, tar.encoding, tar.errors).size))
        tar.fileobj.seek(begin)
        return super().fromtarfile(tar)


def _check_records(header: bytes) -> None:
    """Raises HeaderError unless a pax header is a sequence of "LENGTH KEY=VALUE\\n" with numbers of at most
    LONGEST_NAME digits: tarfile takes quadratic time for anything else."""
    at, header = 0, header.rstrip(b"\0")
    while at < len(header):
        length = header[at : at + 8].partition(b" ")[0]
        size = int(length) if length.isdigit() else 0
        record = header[at : at + size]
        if len(record) < size or b"=" not in record or not record.endswith(b"\n"):
            raise tarfile.HeaderError(f"a pax header holds no record at its byte {at:,}")
        at += size
    if (longest := max(map(len, re.findall(rb"[0-9]+", header)), default=0)) > LONGEST_NAME:
        raise tarfile.HeaderError(f"a pax header holds a number of {longest:,} digits")


def _read_headers(path: Path, members_of: dict[str, list[tarfile.TarInfo]]) -> Exception | None:
    """Gather the members of each sample, without folders. Returns the error that ended it early, or None."""
    last, size = None, path.stat().st_size
    try:
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # else tarfile keeps all of them
                if not member.isdir():
                    last = _split(member.name)[0]
                    members_of.setdefault(last, []).append(member)
                if member.size < 0 or not member.offset_data <= tar.offset <= size:
                    raise tarfile.ReadError(f"{member.size:,} bytes of {member.name} do not fit into it")
            end = tar.offset
    except OSError:  # of the disk
        raise
    except Exception as error:  # of many kinds: TarError, ValueError, RecursionError
        members_of.pop(last, None)  # this sample may continue after the damage
        return error
    try:
        _check_end(path, end)
    except EOFError as error:
        return error
    return None


def _check_end(path: Path, offset: int) -> None:
    """Raises EOFError unless the tar ends here, with two or more blocks of zeros: tarfile takes damage for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
            raise EOFError(f"no header and no end at byte {offset:,}")
        while more := file.read(1 << 20):
            if more.strip(b"\0"):
                raise EOFError(f"more behind its end at byte {offset:,}")


def summary(lines: list[dict]) -> str:
    """The number of samples and shards, and what was left out, as a text."""
    text = [f"{sum(line['samples'] for line in lines):,} samples in {len(lines):,} shards"]
    reasons: dict[str, dict] = {}
    for line in lines:
        for reason, entry in line["left_out"].items():
            known = reasons.setdefault(reason, {"count": 0, "examples": []})
            known["count"] += entry["count"]
            known["examples"] = (known["examples"] + entry["examples"])[:MOST_EXAMPLES]
    text += [
        f"  left out, {reason}: {each['count']:,} ({', '.join(each['examples'])})" for reason, each in reasons.items()
    ]
    if several := sum(line.get("several_lines", 0) for line in lines):
        text.append(f"  {several_lines(several)}")
    return "\n".join(text)


def several_lines(count: int) -> str:
    """Says how many texts have several lines."""
    return f"{count:,} texts have several lines, and each line is read as a caption"


def _split(name: str) -> tuple[str, str]:
    """`a/000.seg.txt` -> `a/000`, `seg.txt`, as webdataset does."""
    folder, _, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}/{stem}", ending.lower()


def _add(listed: Listed, tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> None:
    """Add a sample to `listed`, or the reason why it is left out."""
    example = f"{listed.name}/{key.lstrip('/')}"
    if not all(member.isfile() and not member.issparse() for member in members):
        return listed.leave_out("a link or a sparse file", example)
    endings = Counter(_split(member.name)[1] for member in members)
    if (most := max(endings.values())) > 1 and not _same(tar, members):
        return listed.leave_out("a name stands twice, with other contents", example, most)
    of = {_split(member.name)[1]: member for member in members}
    images = [of[ending] for ending in IMAGES if ending in of]
    if len(images) != 1:
        return listed.leave_out("several images of one name" if images else "no image", example)
    try:
        texts, other, several_lines = _captions(tar, of)
    except UnicodeError:
        return listed.leave_out("caption is not UTF-8", example)
    except TypeError:
        return listed.leave_out("caption is no text", example)
    except DataError:
        return listed.leave_out("json is damaged", example)
    kept = [text.strip() for text in texts if clean_caption(text)]
    if not kept:
        return listed.leave_out("no caption, or an empty one", example)
    if empty := len(texts) - len(kept):
        listed.leave_out("caption that is empty beside others", example, empty, samples=0)
    if other:
        listed.leave_out("text file that says something else than the json", example, samples=0)
    listed.several_lines += several_lines
    tar.fileobj.seek(images[0].offset_data - tarfile.BLOCKSIZE)
    listed.headers.append(zlib.crc32(tar.fileobj.read(tarfile.BLOCKSIZE)))
    listed.images.append((images[0].offset_data, images[0].size))
    listed.captions.append(kept)
    return None


def _same(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> bool:
    """Whether members of one ending have the same contents."""
    contents: dict[str, bytes] = {}
    return all(
        contents.setdefault(_split(member.name)[1], data) == data
        for member, data in ((member, tar.extractfile(member).read()) for member in members)
    )


def _captions(tar: tarfile.TarFile, of: dict[str, tarfile.TarInfo]) -> tuple[list[str], bool, bool]:
    """A sample's captions in order, with empty ones; whether its text file differs from the only caption in json
    (several in json, by CapFilt, replace the text); and whether they are several lines of the text file. Raises
    TypeError for a caption that is no text, UnicodeError for one that is not UTF-8, DataError for damaged json."""
    texts: list[str] = []
    written = tar.extractfile(of["txt"]).read() if "txt" in of else b""
    if "json" in of:
        content = parsed_json(tar.extractfile(of["json"]).read(), "json", object_pairs_hook=once_each)
        given = content.get("caption") if isinstance(content, dict) else content
        given = given if isinstance(given, list) else [given]
        given = [each.get("caption") if isinstance(each, dict) else each for each in given]
        texts = ["" if each is None else each for each in given]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise TypeError(f"{wrong[0]!r} is no text")
    if from_text := "txt" in of and not any(map(clean_caption, texts)):
        texts = [line for line in _LINE_END.split(written.decode("utf-8-sig")) if line.strip()]
    "".join(texts).encode()  # half a surrogate pair, which JSON can hold, is no UTF-8
    text = clean_caption(written.decode("utf-8-sig", "replace"))
    other = not from_text and len(texts) == 1 and text not in ("", clean_caption(texts[0]))
    several = from_text and sum(map(bool, map(clean_caption, texts))) > 1
    return [each or "" for text in texts for each in listed_texts(text)], other, several


def _compare(listed: Listed, stats: Path) -> None:
    """Count images that are missing, by the _stats.json in which img2dataset notes how many it put into a shard."""
    if stats.is_file():
        wanted = Entry(read_json(stats), stats).number("successes", default=None)
        found = len(listed.images) + listed.lost
        if wanted is not None and found < wanted:
            listed.leave_out("in _stats.json and not in the tar", f"{listed.name}: {found} of {wanted}", wanted - found)


def _append(part: Path, shard: Listed, known: dict | None) -> dict:
    """Append one shard to the index and return its line. The line is written last, so that an interrupted append is
    overwritten. known: the line before."""
    encoded = [text.encode() for texts in shard.captions for text in texts]
    lengths = {"first.bin": [len(texts) for texts in shard.captions], "ends.bin": [len(text) for text in encoded]}
    behind = {name: _last(part / name) + np.cumsum(counts, dtype=np.int64) for name, counts in lengths.items()}
    behind |= {"images.bin": np.array(shard.images, np.int64), "headers.bin": np.array(shard.headers, np.uint32)}
    behind["captions.bin"] = np.frombuffer(b"".join(encoded), np.uint8)
    line = {"name": shard.name, "bytes": shard.bytes, "samples": len(shard.images), "left_out": shard.left_out}
    line |= {"several_lines": shard.several_lines}
    line |= {"sizes": {}, "crc32": {}}
    for name in ARRAYS:
        before = known["crc32"][name] if known else crc32_of(part / name)
        line["crc32"][name] = zlib.crc32(behind[name].tobytes(), before)
        with (part / name).open("ab") as file:
            behind[name].tofile(file)
        line["sizes"][name] = (part / name).stat().st_size
    with (part / "shards.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def _last(file: Path) -> int:
    """The last number of an array."""
    with file.open("rb") as opened:
        opened.seek(-8, os.SEEK_END)
        return int(np.fromfile(opened, np.int64)[0])


def _resume(part: Path, shards: dict[str, int | None]) -> list[dict]:
    """The lines of the shards that an interrupted index has; empty if it does not fit or is damaged. Anything begun
    after them is cut off."""
    lines = []
    if (file := part / "shards.jsonl").exists():
        whole = file.read_bytes()
        file.write_bytes(whole[: whole.rfind(b"\n") + 1])  # its last line may be incomplete
        lines = read_shards(part)
    begun = dict(list(shards.items())[: len(lines)])
    whole = all(set(line["sizes"]) == set(line["crc32"]) == set(ARRAYS) for line in lines)
    whole = whole and [line["name"] for line in lines] == list(begun) and not _differing(lines, begun)
    if not whole or _is_damaged(part, lines):
        lines = []
    part.mkdir(parents=True, exist_ok=True)
    (part / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name in ARRAYS:
        (part / name).touch()
        os.truncate(part / name, lines[-1]["sizes"][name] if lines else 0)
    if not lines:
        for name in ("first.bin", "ends.bin"):
            np.zeros(1, np.int64).tofile(part / name)
    return lines


def _is_damaged(part: Path, lines: list[dict]) -> bool:
    """Whether an array holds less than the last line tells, or something else."""
    files = [(part / name, lines[-1]["sizes"][name], lines[-1]["crc32"][name]) for name in ARRAYS if lines]
    return any(not file.is_file() or crc32_of(file, size) != crc32 for file, size, crc32 in files)


def _differing(lines: list[dict], shards: dict[str, int | None]) -> list[str]:
    """Names of shards that only one side has, or that differ in size. An unknown size (None) fits any."""
    known = {line["name"]: line["bytes"] for line in lines}
    unequal = {name for name in known.keys() & shards.keys() if shards[name] not in (None, known[name])}
    return sorted((known.keys() ^ shards.keys()) | unequal)


def _check_same(out: Path, shards: dict[str, int | None]) -> None:
    if differing := _differing(read_shards(out), shards):
        raise _of_others(out, differing)


def _check_newer(place: LocalFolder | RemoteFolder, out: Path) -> None:
    """Read again the shards that are newer than the index. Tars are padded, so captions may change and the size stay.
    Raises ValueError for other contents."""
    known = Shards(place, out)
    newer = known.newer()
    listed = (list_shard(place, name) for name in track(newer, "newer shards"))
    if differing := [each.name for each in listed if not known.holds(each.name, each.images, each.captions)]:
        raise _of_others(out, differing)
    for start in known.start_S[:-1].tolist() if isinstance(place, LocalFolder) else ():
        known.image_bytes(start)  # raises for another header
    if newer:
        (out / "shards.jsonl").touch()


def _of_others(out: Path, differing: list[str]) -> ValueError:
    return ValueError(
        f"{out} is of other shards: {len(differing)} differ, among them {differing[0]}. Remove {out} and run this again"
    )
