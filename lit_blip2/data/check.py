"""Looks at every image of an experiment and at its training captions, and reports what is there and what is wrong."""

import hashlib
import os
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress, TaskID
from rich.table import Table

from lit_blip2.console import Console
from lit_blip2.data.annotations.binding import Pairs
from lit_blip2.data.annotations.captions import Captions
from lit_blip2.data.annotations.entries import noting
from lit_blip2.data.annotations.questions import Questions
from lit_blip2.data.annotations.strings import Strings
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.data.batches.pairs import FilePairs, MixedPairs, PairSource, ShardPairs, sources_in
from lit_blip2.data.faults import MOST_EXAMPLES
from lit_blip2.data.images import UnreadableImageError, decode_image, read_file
from lit_blip2.data.missing import all_missing, namesake
from lit_blip2.data.mixture import Mixture
from lit_blip2.data.module import PairData
from lit_blip2.data.shards.indexing import several_lines

Tables = dict[str, dict[str, Captions | Questions | Pairs]]
CHUNK = 64  # samples that a process reads at a time


class Looked(NamedTuple):
    """One sample. digest: a hash of the image's file. words: length of each caption, in words. reason, details: why the
    image cannot be read. example: that image's place."""

    source: str
    digest: int
    width: int
    height: int
    words: list[int]
    reason: str = ""
    example: str = ""
    details: str = ""


@dataclass
class CheckReport:
    """Everything that was found. It keeps an 8-byte hash and two sides of each image, for duplicates and medians."""

    samples: Counter[str] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    digests: list[np.ndarray] = field(default_factory=list)
    sides: list[np.ndarray] = field(default_factory=list)
    words: Counter[int] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # remarks that are no faults
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)  # each fault: source, problem, file, details

    def fault(self, source: str, reason: str, example: str, count: int = 1, details: str = "") -> None:
        self.faults[source, reason] += count
        self.rows.append((source, reason if count == 1 else f"{reason}: {count:,}", example, details))
        known = self.examples.setdefault((source, reason), [])
        known += [example] if len(known) < MOST_EXAMPLES else []

    def add(self, chunk: list[Looked]) -> None:
        for each in chunk:
            self.samples[each.source] += 1
            self.words.update(each.words)
            if each.reason:
                self.fault(each.source, each.reason, each.example, details=each.details)
        read = [each for each in chunk if not each.reason]
        self.digests.append(np.array([each.digest for each in read], dtype=np.uint64))
        self.sides.append(np.array([(each.width, each.height) for each in read], dtype=np.int32).reshape(-1, 2))

    @property
    def duplicates(self) -> int:
        """Number of images whose file equals an earlier one, byte for byte."""
        digests = np.concatenate(self.digests)
        return len(digests) - len(np.unique(digests))


def read_files(data: PairData, faults: list[str]) -> tuple[PairSource | None, Tables]:
    """Read the files of a data module. Returns its training pairs, None if they cannot be read, and its evaluation
    tables, split -> task -> table, without unreadable ones. faults: gets a line for each unreadable file."""
    tables = {split: data.read(split, faults) for split in ("val", "test") if data.tasks(split)}
    if isinstance(data, Mixture):
        return data.train_pairs(faults), tables
    source = None
    with noting(faults, data.train_files()):
        source = data.train_pairs()
    return source, tables


def check_images(
    found: CheckReport,
    data: PairData,
    source: PairSource | None,
    tables: Tables,
    sample: int | None = None,
    workers: int = 0,
) -> None:
    """Look at all images of a data module, or a sample of them, and at its training captions. Print what was found.

    Args: found: collects the results. source, tables: from `read_files`. sample: number of images to look at; None:
    all. workers: number of processes; 0: one for each core. Raises ValueError as `check_texts`.
    """
    pairs_of = [] if source is None else sources_in(source)
    if source is not None:
        check_texts(source)
    evaluated = [
        Images(split, data.pixels(split), data.named_images(split, read).values()) for split, read in tables.items()
    ]
    texts = [(pairs.name, pairs.texts) for pairs in pairs_of if isinstance(pairs, FilePairs)]
    for name, table in texts + [(split, table) for split, read in tables.items() for table in read.values()]:
        if isinstance(table, Captions) and table.empty:
            found.fault(name, "caption left out, empty", "an image with another one", table.empty)
    for pairs in pairs_of:
        for line in pairs.shards.shards if isinstance(pairs, ShardPairs) else ():
            for reason, entry in line["left_out"].items():
                found.fault(pairs.name, f"left out of the index, {reason}", entry["examples"][0], entry["count"])
    for pairs in pairs_of:
        lines = pairs.shards.shards if isinstance(pairs, ShardPairs) else ()
        if several := sum(line.get("several_lines", 0) for line in lines):
            found.notes.append(f"{pairs.name}: {several_lines(several)}")
    if source is not None and len(source) < data.batch_size:
        found.notes.append(f"{len(source):,} images are fewer than a batch: set data.batch_size={len(source)} or less")
    sources = [*map(_once, pairs_of), *evaluated]
    count = sum(map(len, sources))
    chosen = range(count) if sample is None else np.linspace(0, count - 1, min(sample, count)).astype(int).tolist()
    for chunk in look(sources, chosen, workers or os.cpu_count() or 1):
        found.add(chunk)
    show(found, count, data.max_caption_words)
    show_missing(found, sources)


def check_texts(source: PairSource) -> None:
    """Draw a text of each source. Raises ValueError if some are captions and some questions: no batch can hold both."""
    rng, parts = np.random.default_rng(0), source.spans if isinstance(source, MixedPairs) else [source.span(0)]
    kinds = {part.pairs.name: ", ".join(part.draw(part.start, rng)) for part in parts}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"a mixture of sources with other texts each, which no batch can hold: source -> texts, {kinds}"
        )


class Images:
    """Images without their texts, each once: those of an evaluation split, or those that questions ask about."""

    def __init__(self, name: str, images: Pixels, files: Iterable[str]):
        self.name, self.images, self.files = name, images, Strings(files)

    def __len__(self) -> int:
        return len(self.files)

    def captions(self, number: int) -> list[str]:
        """Always empty: these texts were checked when they were read."""
        return []

    def file(self, number: int) -> bytes:
        return read_file(self.place(number))

    def place(self, number: int) -> str:
        """The path of an image."""
        return str(self.images.path(self.files[number]))


Source = FilePairs | ShardPairs | Images


def _once(pairs: FilePairs | ShardPairs) -> Source:
    """The images of questions, once each instead of once per question. Sources of captions come back unchanged."""
    if isinstance(pairs, FilePairs) and isinstance(pairs.texts, Questions):
        return Images(pairs.name, pairs.images, dict.fromkeys(pairs.texts.files))
    return pairs


def look(sources: Sequence[Source], numbers: Sequence[int], workers: int) -> Iterator[list[Looked]]:
    """Look at the chosen images in several processes. numbers: the samples, counted through all sources in turn."""
    with ProcessPoolExecutor(workers, initializer=_remember, initargs=(sources,)) as pool, Progress() as bar:
        task, waiting = bar.add_task("images", total=len(numbers)), deque()
        for first in range(0, len(numbers), CHUNK):
            waiting.append(pool.submit(_look_at, numbers[first : first + CHUNK]))
            if len(waiting) > 4 * workers:  # not all at once: a task takes memory
                yield _next(waiting, bar, task)
        while waiting:
            yield _next(waiting, bar, task)


def _next(waiting: deque[Future], bar: Progress, task: TaskID) -> list[Looked]:
    looked = waiting.popleft().result()
    bar.advance(task, len(looked))
    return looked


_sources: list[Source] = []  # of this worker process
_starts: list[int] = []


def _remember(sources: Sequence[Source]) -> None:
    _sources[:] = sources
    _starts[:] = np.cumsum([0, *map(len, sources)]).tolist()


def _look_at(numbers: Sequence[int]) -> list[Looked]:
    places = ((bisect_right(_starts, number) - 1, number) for number in numbers)
    return [look_at(_sources[source], number - _starts[source]) for source, number in places]


def look_at(source: Source, number: int) -> Looked:
    """Read an image's file and its captions."""
    words = [len(text.split()) for text in source.captions(number)]
    try:
        content = source.file(number)
        image = decode_image(content, "")
    except FileNotFoundError:
        place = source.place(number)
        there = f"it is called {name}" if (name := namesake(Path(place))) else ""
        return Looked(source.name, 0, 0, 0, words, "missing", place, there)
    except UnreadableImageError as error:
        return Looked(source.name, 0, 0, 0, words, error.reason, source.place(number), error.details)
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return Looked(source.name, digest, image.width, image.height, words)


def show_missing(found: CheckReport, sources: Sequence[Source]) -> None:
    """For each source whose images are all missing, print where they were looked for and what is there."""
    for source in sources:
        if (
            not isinstance(source, ShardPairs)
            and 0 < found.samples[source.name] == found.faults[source.name, "missing"]
        ):
            said = all_missing(source.images.folder, Path(source.place(0)), source.name, len(source))
            Console().print(said, style="red", highlight=False, soft_wrap=True)


def show(found: CheckReport, count: int, most_words: int) -> None:
    """Print the tables."""
    console, table = Console(), Table("source", "images looked at", "problems")
    for name, number in found.samples.items():
        faults = sum(n for (source, _), n in found.faults.items() if source == name)
        table.add_row(name, f"{number:,}", f"{faults:,}")
    console.print(table)
    sides = np.concatenate(found.sides) if found.sides else np.empty((0, 2))
    if len(sides):
        low, middle, high = (np.percentile(sides, share, axis=0).astype(int) for share in (0, 50, 100))
        spans = (f"{low[i]} to {high[i]} pixels {way} (median {middle[i]})" for i, way in ((0, "wide"), (1, "high")))
        console.print(f"images: {', '.join(spans)}; {found.duplicates:,} are copies of earlier ones", soft_wrap=True)
    if total := found.words.total():
        lengths = sorted(found.words)
        middle = lengths[int(np.searchsorted(np.cumsum([found.words[length] for length in lengths]), total / 2))]
        cut = sum(count for length, count in found.words.items() if length >= most_words)
        console.print(
            f"captions: {total:,}, of {lengths[0]} to {lengths[-1]} words, median {middle}; "
            f"{cut:,} reach the limit of {most_words} words (data.max_caption_words), where longer ones are cut",
            soft_wrap=True,
        )
    for note in found.notes:
        console.print(note, soft_wrap=True)
    console.print(f"looked at {found.samples.total():,} of {count:,} images")
    for (source, reason), number in found.faults.most_common():
        console.print(f"{source}, {reason}: {number:,}", style="red")
        for example in found.examples[source, reason]:
            console.print(f"    {example}", highlight=False, soft_wrap=True)
