"""Tar shards in webdataset's layout, read by sample number through an index that is made once (indexing.py).

An index is a folder of memory-mapped arrays, so that samples take no memory of a process and workers share them all:

    shards.jsonl    a line for each shard: name, bytes, samples, what was left out (by reason, with examples), and the
                    size and CRC-32 of each array below up to this shard's end
    images.bin      int64 [N, 2]: where in its shard an image begins, and how many bytes it has
    headers.bin     uint32 [N]: the CRC-32 of the header before that image, which detects a rewritten shard
    first.bin       int64 [N + 1]: the captions of sample i are first[i] to first[i + 1]
    ends.bin        int64 [M + 1]: caption m is bytes ends[m] to ends[m + 1] of captions.bin
    captions.bin    UTF-8

Sizes and CRC-32 are checked before a sample is read. Older indexes lack the CRC-32 and headers.bin.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lit_blip2.contents import DataError, name_inside
from lit_blip2.data.annotations.captions import clean_caption
from lit_blip2.data.annotations.entries import Entry, read_lines
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.images import UnreadableImageError, decode_image
from lit_blip2.data.shards.folders import LocalFolder, RemoteFolder, is_url, shard_folder
from lit_blip2.links import check_links

INDEX = "index"
ARRAYS = ("images.bin", "headers.bin", "first.bin", "ends.bin", "captions.bin")
WAY_OUT = "remove that folder and run `python -m lit_blip2 data index` again"


class Shards:
    """N samples of a folder of tars, each an image with one caption or several.

    Args:
        folder: folder of the shards, or an object of folders.py. index: folder of the index; None: `index` in `folder`.
        best: number of an image's captions to draw from, counted from the first (CapFilt's best); None: all.
        max_words: captions are cut after this many words.
    Raises:
        FileNotFoundError: no index; the message has the command that makes it. DataError: a shard has changed since, or
            the index is cut short or damaged, or holds a link that leads out of it. Shards may be links.
    """

    def __init__(
        self,
        folder: str | Path | LocalFolder | RemoteFolder,
        index: str | Path | None = None,
        best: int | None = None,
        max_words: int = 50,
    ):
        if best is not None and best < 1:
            raise ValueError(f"best={best} must be at least 1 caption of each image")
        self.folder = shard_folder(folder) if isinstance(folder, str | Path) else folder
        self.index = Path(str(folder)) / INDEX if index is None else Path(index)
        self.best, self.max_words = best, max_words
        if not (self.index / "shards.jsonl").is_file():
            raise FileNotFoundError(f"no index in {self.index}: make it once, with `{self._way_to_index()}`")
        check_links(self.index)
        self.shards = read_shards(self.index)
        self.sizes = [shard["samples"] for shard in self.shards if shard["samples"]]
        self.names = [shard["name"] for shard in self.shards if shard["samples"]]
        self._check_unchanged()
        check_arrays(self.index, self.shards)
        self.start_S = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        self.images_N2 = _mapped(self.index / "images.bin").reshape(-1, 2)
        headers = self.index / "headers.bin"  # which older indexes lack
        self.headers_N = _mapped(headers, np.uint32) if headers.exists() else None
        self.first_N = _mapped(self.index / "first.bin")
        self.texts = Strings.from_arrays(
            _mapped(self.index / "captions.bin", np.uint8), _mapped(self.index / "ends.bin")
        )

    def __reduce__(self):  # open files and maps stay in their process
        return Shards, (self.folder, self.index, self.best, self.max_words)

    def __len__(self) -> int:
        return len(self.images_N2)

    def captions(self, sample: int) -> list[str]:
        """The captions that may be drawn, cleaned."""
        start, end = self._drawn_from(sample)
        return [clean_caption(self.texts[m], self.max_words) for m in range(start, end)]

    def draw(self, sample: int, rng: np.random.Generator) -> str:
        """One of these captions, each equally likely. Draws from `rng` exactly once."""
        start, end = self._drawn_from(sample)
        return clean_caption(self.texts[start + int(rng.random() * (end - start))], self.max_words)

    def image(self, sample: int) -> Image.Image:
        """Raises UnreadableImageError, which names shard and member."""
        return decode_image(self.image_bytes(sample), _Name(self, sample))

    def image_bytes(self, sample: int) -> bytes:
        """The contents of an image's file.

        Raises UnreadableImageError for a shard that ends before it, DataError for one that was rewritten.
        """
        begin, size = self.images_N2[sample].tolist()
        shard = self.names[self._shard(sample)]
        read = self.folder.read(shard, begin - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + size)
        header, data = read[: tarfile.BLOCKSIZE], read[tarfile.BLOCKSIZE :]
        if len(data) < size:
            raise UnreadableImageError(self.name(sample), "truncated", f"{len(data)} of {size} bytes")
        if self.headers_N is not None and zlib.crc32(header) != self.headers_N[sample]:
            raise DataError(
                f"{self.folder}/{shard} holds another image at byte {begin:,} than when {self.index} was made: remove "
                f"that folder and run `{self._way_to_index()}` again"
            )
        return data

    def holds(self, shard: str, images: list[tuple[int, int]], captions: list[list[str]]) -> bool:
        """Whether the index agrees with a shard. images: (begin, size) per sample. captions: its captions."""
        if shard not in self.names:
            return not images
        start, end = self.start_S[self.names.index(shard) :][:2].tolist()
        texts = [[self.texts[m] for m in range(*self.first_N[sample : sample + 2])] for sample in range(start, end)]
        return captions == texts and np.array_equal(self.images_N2[start:end], images)

    def newer(self) -> list[str]:
        """Shards on disk that were written after the index, by their dates, which a copy may have changed."""
        return self.folder.newer((self.index / "shards.jsonl").stat().st_mtime)

    def name(self, sample: int) -> str:
        """A name such as `00012.tar/000123456.jpg`, read from the header before the image."""
        shard, begin = self.names[self._shard(sample)], int(self.images_N2[sample, 0])
        header = self.folder.read(shard, begin - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
        try:
            return f"{shard}/{tarfile.TarInfo.frombuf(header, 'utf-8', 'replace').name}"
        except tarfile.HeaderError:
            return f"{shard}, byte {begin}"

    def shard_of(self, sample: int) -> range:
        """The samples of its shard."""
        shard = self._shard(sample)
        return range(int(self.start_S[shard]), int(self.start_S[shard + 1]))

    def _shard(self, sample: int) -> int:
        return int(np.searchsorted(self.start_S, sample, side="right")) - 1

    def _drawn_from(self, sample: int) -> tuple[int, int]:
        start, end = self.first_N[sample : sample + 2].tolist()
        return start, end if self.best is None else min(end, start + self.best)

    def _check_unchanged(self) -> None:
        """Raises DataError if a shard is gone, or has another size than when the index was made."""
        try:
            self.folder.check({shard["name"]: shard["bytes"] for shard in self.shards})
        except DataError as error:
            raise DataError(
                f"{error} when {self.index} was made: remove that folder and run `{self._way_to_index()}` again"
            ) from error

    def _way_to_index(self) -> str:
        out = f" --out {self.index}" if is_url(str(self.folder)) else ""
        return f"python -m lit_blip2 data index {self.folder}{out}"


def read_shards(index: Path) -> list[dict]:
    """The lines of the shards in an index, or in a part of one. Raises DataError for a line that is not of an index."""
    return [_checked(line) for line in read_lines(index / "shards.jsonl")]


def _checked(line: Entry) -> dict:
    """The checked values of a line. In older indexes, sizes and crc32 may be empty."""
    name_inside(line.text("name"), f"{line.path}: line {line.place[1]}", f"shards lie in one folder; {WAY_OUT}")
    told = {name: line.entry(name, default={}) for name in ("sizes", "crc32")}
    if not all(each.values.keys() <= {*ARRAYS} for each in told.values()):
        raise line.error(f"it tells of files that are none of an index: {WAY_OUT}")
    numbers = [line.number("bytes"), line.number("samples"), line.number("several_lines", default=0)]
    numbers += [each.number(name) for each in told.values() for name in each.values]
    for _, left_out in line.entry("left_out").items():
        numbers.append(left_out.number("count"))
        left_out.texts("examples")
    if min(numbers) < 0:
        raise line.error(f"{min(numbers)} is less than 0: {WAY_OUT}")
    return line.values | {name: each.values for name, each in told.items()}


def check_arrays(index: Path, shards: list[dict]) -> None:
    """Raises DataError if the arrays of an index are cut short or damaged, by the sizes and the CRC-32 of its last
    line, or if they do not hold the samples of its lines."""
    samples = np.cumsum([0, *(shard["samples"] for shard in shards)]).tolist()
    for shard, count in zip(shards, samples[1:]):
        if shard["sizes"].get("images.bin", 16 * count) != 16 * count:
            raise DataError(f"{index / 'shards.jsonl'}: {shard['name']} has another number of samples: {WAY_OUT}")
    sizes = shards[-1]["sizes"] if shards else {}
    sizes = {"images.bin": 16 * samples[-1], "first.bin": 8 * (samples[-1] + 1)} | sizes
    for name, size in sizes.items():
        file = index / name
        found = file.stat().st_size if file.is_file() else 0
        if found != size:
            raise DataError(f"{file} has {found:,} bytes, and had {size:,}: {WAY_OUT}")
        if (known := shards[-1]["crc32"].get(name) if shards else None) is not None and crc32_of(file) != known:
            raise DataError(f"{file} is damaged, its CRC-32 is another than when it was made: {WAY_OUT}")


def crc32_of(file: Path, size: int | None = None) -> int:
    """The CRC-32 of a file, or of its first `size` bytes, or of fewer if it is shorter."""
    left, found = file.stat().st_size if size is None else size, 0
    with file.open("rb") as opened:
        while part := opened.read(min(left, 1 << 24)):
            left, found = left - len(part), zlib.crc32(part, found)
    return found


class _Name:
    """A sample's name, read from the shard only if an error names it."""

    def __init__(self, shards: Shards, sample: int):
        self.shards, self.sample = shards, sample

    def __str__(self) -> str:
        return self.shards.name(self.sample)


def _mapped(path: Path, dtype: type = np.int64) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
