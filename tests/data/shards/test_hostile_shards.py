"""Shards whose headers were made to harm, or damaged: named and counted as damage within a second."""

import io
import json
import signal
import tarfile
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from lit_blip2.data.shards.folders import LocalFolder
from lit_blip2.data.shards.indexing import list_shard

BLOCK, HUGE = tarfile.BLOCKSIZE, b"\x80" + (10**15).to_bytes(11, "big")


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, size: bytes | None = None) -> bytes:
    """A header and its data, padded. size: what stands in its field instead of the data's own."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data), kind
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    if size is not None:
        header[124:136], header[148:156] = size, b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % BLOCK)


def negative(number: int) -> bytes:
    return b"\xff" + (number + (1 << 88)).to_bytes(11, "big")


def pax(kind: bytes = tarfile.XHDTYPE, **records: str) -> bytes:
    lines = [f" {key.replace('_', '.')}={value}\n" for key, value in records.items()]
    sized = [next(f"{n}{line}" for n in range(len(line), 10**6) if len(f"{n}{line}") == n) for line in lines]
    return member("pax", "".join(sized).encode(), kind)


def sound(number: int) -> bytes:
    image = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(image, "PNG")
    return member(f"{number:03d}.png", image.getvalue()) + member(f"{number:03d}.json", json.dumps("words").encode())


HOSTILE = {
    "a negative size": member("002.txt", b"", size=negative(-512)),
    "a negative size that leads further back": member("002.txt", b"", size=negative(-1536)),
    "a negative size of an unknown kind": member("002.txt", b"", b"Z", negative(-1024)),
    "a long name of negative size": member("x", b"", tarfile.GNUTYPE_LONGNAME, negative(-512)) + sound(2),
    "a long name without end": member("x", b"", tarfile.GNUTYPE_LONGNAME, HUGE) + sound(2),
    "a pax header of negative size": member("x", b"", tarfile.XHDTYPE, negative(-512)) + sound(2),
    "a pax header without end": member("x", b"", tarfile.XHDTYPE, HUGE) + sound(2),
    "a negative size in a pax header": pax(size="-1024") + sound(2),
    "a negative size in a global pax header": pax(tarfile.XGLTYPE, size="-1024") + sound(2),
    "a size of 30 digits in a pax header": pax(size="9" * 30) + sound(2),
    "a size of 5,000 digits in a pax header": pax(size="9" * 5000, GNU_sparse_size="9" * 5000) + sound(2),
    "a json without end": member("002.json", b"{}", size=HUGE),
    "pax headers in a row": b"".join(pax(comment="x") for _ in range(3000)) + sound(2),
    "long names in a row": member("x", b"a" * 10, tarfile.GNUTYPE_LONGNAME) * 3000 + sound(2),
    "a sparse file without a map": pax(GNU_sparse_major="1", GNU_sparse_minor="0") + sound(2),
    "a pax header of digits": member("x", b"9" * 2**20, tarfile.XHDTYPE) + sound(2),
    "a pax header of digits in a record": pax(comment="9" * 900_000) + sound(2),
    "a pax header of records in each other": member("x", b"2 " * 2**18 + b"=", tarfile.XHDTYPE) + sound(2),
    "a pax header without an end of its record": member("x", b"20 path=a.png", tarfile.XHDTYPE) + sound(2),
    "a global pax header of digits": member("x", b"7" * 2**20, tarfile.XGLTYPE) + sound(2),
    "a sparse map of words": pax(GNU_sparse_map="a,b") + sound(2),
}


@contextmanager
def within_seconds():
    passed = []

    def late(*_: object) -> None:
        passed.append("it takes longer than a second")
        raise TimeoutError(passed[0])  # which the reader may take for damage

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not passed


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_counted_as_damage(tmp_path, header):
    (tmp_path / "00000.tar").write_bytes(sound(0) + sound(1) + header + bytes(2 * BLOCK))
    with within_seconds():
        listed = list_shard(LocalFolder(tmp_path), "00000.tar")
    entry = listed.left_out["shard ends or is damaged here"]
    assert entry["count"] == 1 and entry["examples"][0].startswith("00000.tar after ")
    assert listed.captions[:1] == [["words"]] and len(listed.images) <= 2


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_hostile_header_at_the_begin_is_damage(tmp_path, kind):
    (tmp_path / "00000.tar").write_bytes(member("x", b"", kind, HUGE) + sound(0) + bytes(2 * BLOCK))
    with within_seconds():
        listed = list_shard(LocalFolder(tmp_path), "00000.tar")
    assert list(listed.left_out) == ["shard ends or is damaged here"] and not listed.images


def test_sound_headers_are_read(tmp_path):
    """Of links the size is of a file that stands elsewhere; names may be longer than a file system has them."""
    link = member("z.lnk", b"", tarfile.LNKTYPE, b"77777777777\0")
    long = pax(path=f"{'a' * 5000}.png", mtime="-1.5", LIBARCHIVE_xattr_user="a=b\n7 " * 9000) + sound(3)[: -2 * BLOCK]
    content = sound(0) + link + long + member(f"{'a' * 90}.txt", b"words") + sound(2) + bytes(2 * BLOCK)
    (tmp_path / "00000.tar").write_bytes(content)
    listed = list_shard(LocalFolder(tmp_path), "00000.tar")
    assert "shard ends or is damaged here" not in listed.left_out and len(listed.images) == 2
