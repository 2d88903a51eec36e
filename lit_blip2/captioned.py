"""Writes a file with a run's captions of many images, in batches, loading it once. It continues where it stopped.

Each line is a JSON object: `image`, its name as given, `caption`, and `made_by`, which names the checkpoint, how it
captions, and the folder. The file can be trained on, as `data.train` of data/own.py.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lit_blip2.console import Console
from lit_blip2.contents import parsed_json
from lit_blip2.data.annotations.caption_layouts import Columns, images_in
from lit_blip2.data.annotations.entries import Entry
from lit_blip2.data.annotations.pictures import pictures_in
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.data.images import UnreadableImageError
from lit_blip2.runs import run_of
from lit_blip2.whole_files import alone

View = TypeVar("View")
BEGINS = b'{"image":'  # begins a line
TABLES = (".csv", ".tsv", ".jsonl", ".json")
BAR = (TextColumn("captions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


class Pictures(NamedTuple):
    """Images to caption. names: their paths, which start from `folder`."""

    folder: Path
    names: list[str]

    def path(self, name: str) -> Path:
        return Pixels(self.folder, 0).path(name)


def pictures_of(given: Path, images: Path | None = None, column: str | None = None) -> Pictures | None:
    """The images of a folder or of a table, each once; None for another file, which may be an image.

    images: folder of a table's images; None: the table's own folder. column: the table's column of images; None: image.
    Raises DataError for a folder or table without images.
    """
    if given.is_dir():
        return Pictures(given, pictures_in(given))
    if given.suffix.lower() not in TABLES:
        return None
    columns = Columns(image=column) if column else None
    rows = images_in(given, "train", "val", "test", columns=columns)
    return Pictures(images or given.parent, [each.file for each in rows])


def made_by(checkpoint: Path, how: str, folder: Path) -> str:
    """The origin that a line notes: the run, the digest of its checkpoint, how it captions, and the image folder."""
    with checkpoint.open("rb") as opened:
        digest = hashlib.file_digest(opened, "blake2b").hexdigest()[:12]
    run = run_of(checkpoint.resolve())
    return f"{run.parent.name}/{run.name} ({digest}), {how}, images in {folder.resolve()}"


class CaptionFile:
    """The file of captions. done: names of the images that it holds already.

    A line that a kill has cut is removed; whole lines stay. Raises ValueError for a file that was written by something
    else, by another checkpoint, or for another folder.
    """

    def __init__(self, file: Path, made_by: str):
        self.file, self.made_by = file, made_by
        self.done = self._read() if file.exists() else set()

    def _read(self) -> set[str]:
        content = self.file.read_bytes()
        *lines, cut = content.split(b"\n")
        rows = [self._row(line) for line in lines]
        if cut and (not BEGINS.startswith(cut[: len(BEGINS)]) or cut.endswith(b"}")):
            self._row(cut)  # raises if something else wrote it
        if cut:
            os.truncate(self.file, len(content) - len(cut))
        return {row.file("image") for row in rows}

    def _row(self, line: bytes) -> Entry:
        """Parse a whole line. Raises ValueError if something else wrote it."""
        row = Entry(parsed_json(line, f"{self.file}, which --out names and would go on with,"), self.file)
        if (other := row.text("made_by", default="something else")) != self.made_by:
            raise ValueError(
                f"{self.file} was made by {other}, and now it is {self.made_by}: give another --out, or remove it"
            )
        return row

    def append(self, opened: BinaryIO, names: Sequence[str], captions: Sequence[str]) -> None:
        """Write the lines of a batch, and flush them to the disk."""
        rows = ({"image": name, "caption": text, "made_by": self.made_by} for name, text in zip(names, captions))
        opened.write("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode())
        opened.flush()
        os.fsync(opened.fileno())


def write_captions(
    pictures: Pictures,
    out: CaptionFile,
    look: Callable[[Path], View],
    caption: Callable[[list[View]], list[str]],
    batch_size: int,
    unreadable: Callable[[str], None],
) -> tuple[int, int]:
    """Caption the images that `out` does not hold. Returns how many were captioned, and how many are unreadable.

    Args: look: turns a file into what `caption` takes, in several threads; UnreadableImageError skips the file.
    caption: turns results of `look` into captions. unreadable: is called with the reason for each skipped image.
    """
    names = [name for name in pictures.names if name not in out.done]
    written = failed = 0
    out.file.parent.mkdir(parents=True, exist_ok=True)
    with alone(out.file), out.file.open("ab") as opened, Progress(*BAR, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(pictures.names), completed=len(pictures.names) - len(names))
        for batch in _looked_ahead(pictures, names, look, batch_size):
            sound = {name: view for name, view in batch.items() if not isinstance(view, OSError)}
            for error in batch.values():
                if isinstance(error, OSError):
                    unreadable(str(error))
            if sound:
                out.append(opened, list(sound), caption(list(sound.values())))
            written, failed = written + len(sound), failed + len(batch) - len(sound)
            bar.advance(task, len(batch))
    return written, failed


def _looked_ahead(
    pictures: Pictures, names: Sequence[str], look: Callable[[Path], View], batch_size: int
) -> Iterator[dict[str, View | OSError]]:
    """Batches of name -> result of `look`, or the error if an image cannot be read. The next batch is looked at while
    one is used."""

    def looked(name: str) -> View | OSError:
        try:
            name.encode()
            return look(pictures.path(name))
        except (UnreadableImageError, FileNotFoundError) as error:
            return error
        except UnicodeEncodeError:
            return UnreadableImageError(name, "its name is no UTF-8")

    batches = [names[at : at + batch_size] for at in range(0, len(names), batch_size)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ahead: list[Future] = []
        for batch, following in pairwise([[], *batches, []]):
            looking, ahead = ahead, [pool.submit(looked, name) for name in following]
            if batch:
                yield {name: each.result() for name, each in zip(batch, looking)}
