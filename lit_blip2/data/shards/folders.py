"""Where tar shards are: in a folder on disk, or at a URL that fsspec reads, with a cache on disk."""

import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec
from braceexpand import braceexpand
from filelock import FileLock

from lit_blip2.contents import DataError
from lit_blip2.links import check_inside
from lit_blip2.whole_files import written_whole

MOST_OPEN = 64  # shards that a process keeps open: more than a window has
TRIES = 3
_LIKE_SHARDS = re.compile(r"\.(tar(\.\w+)?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)


class LocalFolder:
    """The *.tar files of a folder on disk."""

    def __init__(self, path: Path):
        self.place, self.name = path, path.name
        self._open = lru_cache(MOST_OPEN)(_Opened)

    def __reduce__(self):  # open files stay in their process
        return LocalFolder, (self.place,)

    def __str__(self) -> str:
        return str(self.place)

    def sizes(self) -> dict[str, int]:
        """Name -> bytes, sorted by name."""
        return {file.name: file.stat().st_size for file in sorted(self.place.glob("*.tar"))}

    def passed_over(self) -> list[str]:
        """Files that look like shards but are not in `sizes`: compressed, with another ending, or in a subfolder."""
        inside = (f"{file.parent.name}/{file.name}" for file in self.place.glob("*/*.tar"))
        return _unread_shards([*(file.name for file in self.place.glob("*")), *inside])

    def path(self, name: str) -> Path:
        """The shard as a file."""
        return self.place / name

    def newer(self, date: float) -> list[str]:
        """Names of the shards that were written after a date, in seconds as st_mtime."""
        return [name for name in self.sizes() if self.path(name).stat().st_mtime > date]

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """The shard as a file, with its _stats.json beside it if there is one, for reading once."""
        yield self.place / name

    def read(self, name: str, begin: int, size: int) -> bytes:
        return self._open(self.place / name).read(begin, size)

    def check(self, known: Mapping[str, int]) -> None:
        """known: name -> bytes. Raises DataError for a shard that is gone or has another size."""
        for name, size in known.items():
            path = self.place / name
            if not path.is_file():
                raise DataError(f"{path} is gone, and had {size} bytes")
            if path.stat().st_size != size:
                raise DataError(f"{path} has {path.stat().st_size} bytes, and had {size}")


class RemoteFolder:
    """The *.tar files under a URL such as s3://bucket/cc3m, or those that braces name: https://host/{00000..00331}.tar.

    A shard is downloaded whole when it is first read, by one process for all processes of the machine. If the cache
    exceeds `most_bytes`, the shards that were read longest ago are deleted: apart from current downloads, it is never
    larger. A shard whose size differs from what `check` was told raises DataError.

    Args:
        url: with the protocol; its library (s3fs, gcsfs) must be installed.
        cache: folder, shared by all processes of the machine; each URL gets its own subfolder.
    """

    def __init__(self, url: str, cache: Path | None = None, most_bytes: int = 0):
        if "?" in url or "{" in url.rsplit("/", 1)[0] or "}" in url.rsplit("/", 1)[0]:
            raise ValueError(f"{url}: braces may stand in the last part only, and no ? in it")
        self.url, self.most_bytes = url.rstrip("/"), most_bytes
        self.base, self.names = (self.url, None) if "{" not in url else self.url.rsplit("/", 1)
        self.name = self.base.rsplit("/", 1)[-1]
        self.known: dict[str, int] = {}
        digest = hashlib.blake2b(self.url.encode(), digest_size=4).hexdigest()
        self.folder = None if cache is None else cache / f"{re.sub(r'[^A-Za-z0-9]+', '-', self.base)}-{digest}"

    def __str__(self) -> str:
        return self.url

    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes, sorted by name; None if the size is unknown."""
        if self.names:
            return dict.fromkeys(sorted(braceexpand(self.names)))
        listed = self._listed()
        return {name: listed[name] for name in sorted(listed) if name.endswith(".tar")}

    def passed_over(self) -> list[str]:
        """Files there that look like shards but are not in `sizes`: compressed, or with another ending."""
        return [] if self.names else _unread_shards(self._listed())

    def newer(self, date: float) -> list[str]:
        """Always empty: downloads have no date of their own."""
        return []

    def _listed(self) -> dict[str, int | None]:
        """Name -> bytes of everything there."""
        system, path = fsspec.core.url_to_fs(self.base)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.base} cannot be listed: name the shards, {self.base}/{{00000..00099}}.tar"
            ) from error
        return {each["name"].rsplit("/", 1)[-1]: each.get("size") for each in entries}

    def path(self, name: str) -> Path:
        """The shard as a file in the cache. Raises OSError if it cannot be downloaded, DataError if it has changed or
        is a link that leads out of the cache."""
        file = self.folder / name
        check_inside(self.folder.parent, [self.folder])
        check_inside(self.folder, [file])
        if self._is_kept(file):
            return file
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f".{name}.lock"):
            if not self._is_kept(file):
                for left_behind in self.folder.glob(f".{name}.part*"):  # by a process that was killed
                    left_behind.unlink()
                self._make_room(self.known.get(name, 0))
                with written_whole(file) as part:
                    self._download(name, part)
                    if (size := part.stat().st_size) != self.known.get(name, size):
                        raise DataError(f"{self.base}/{name} has {size} bytes, and had {self.known[name]}")
        return file

    def _is_kept(self, file: Path) -> bool:
        """Whether the file exists with the size that the index knows. Marks it as the one read last."""
        try:
            os.utime(file)
            return file.stat().st_size == self.known.get(file.name, file.stat().st_size)
        except FileNotFoundError:
            return False

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """The shard as a file, with its _stats.json beside it if there is one, for reading once."""
        with TemporaryDirectory() as folder:
            stats = f"{Path(name).stem}_stats.json"
            self._download(name, Path(folder) / name)
            if self.names is None:
                system, path = fsspec.core.url_to_fs(f"{self.base}/{stats}")
                if system.exists(path):
                    self._download(stats, Path(folder) / stats)
            yield Path(folder) / name

    def read(self, name: str, begin: int, size: int) -> bytes:
        while True:
            path = self.path(name)
            try:
                with path.open("rb", buffering=0) as file:
                    file.seek(begin)
                    return file.read(size)
            except FileNotFoundError:  # another process deleted it to make room: download it again
                continue

    def check(self, known: Mapping[str, int]) -> None:
        """known: name -> bytes, which downloads must have."""
        self.known = dict(known)

    def _make_room(self, size: int) -> None:
        with FileLock(self.folder / ".room.lock"):
            files = [file for file in self.folder.glob("[!.]*") if file.is_file() and not file.is_symlink()]
            kept = sorted(files, key=lambda file: file.stat().st_mtime)
            total = size + sum(file.stat().st_size for file in kept)
            while total > self.most_bytes and kept:
                oldest = kept.pop(0)
                total -= oldest.stat().st_size
                oldest.unlink()

    def _download(self, name: str, out: Path) -> None:
        system, path = fsspec.core.url_to_fs(f"{self.base}/{name}")
        for attempt in range(TRIES):
            try:
                return system.get_file(path, str(out))
            except FileNotFoundError as error:
                raise FileNotFoundError(f"{self.base}/{name} is not there") from error
            except Exception as error:  # each protocol's library has its own
                if attempt == TRIES - 1:
                    raise OSError(f"cannot download {self.base}/{name}, tried {TRIES} times: {error}") from error
                time.sleep(2**attempt)
        return None


def shard_folder(place: str | Path, cache: Path | None = None, most_bytes: int = 0) -> LocalFolder | RemoteFolder:
    """The shards of a folder or of a URL."""
    return RemoteFolder(str(place), cache, most_bytes) if is_url(place) else LocalFolder(Path(place))


def _unread_shards(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _LIKE_SHARDS.search(name) and ("/" in name or not name.endswith(".tar")))


def is_url(place: str | Path) -> bool:
    return "://" in str(place)


class _Opened:
    """A shard's open file. Several threads may read it, at any place."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def read(self, begin: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, begin)

    def __del__(self):
        os.close(self.descriptor)
