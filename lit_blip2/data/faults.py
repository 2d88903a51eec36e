"""Counts and reports unreadable images that were replaced, and stops a run that has too many."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lit_blip2.whole_files import write_json

LEAST_ROWS = 1000  # a share of fewer rows says nothing
MOST_EXAMPLES = 3

log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """An unreadable image. source: name of its source. reason: a few words. example: the whole error."""

    source: str
    reason: str
    example: str


class TooManyFaultsError(ValueError):
    """More images are unreadable than the limit allows."""


class Faults:
    """The images that this process replaced in its batches. limit: the largest share of a source's rows to replace."""

    def __init__(self, limit: float):
        if not 0 <= limit <= 1:
            raise ValueError(f"max_unreadable={limit} must lie in 0..1: it is a share of the images")
        self.limit = limit
        self.rows: Counter[str] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], list[str]] = {}

    def add(self, rows: Mapping[str, int], faults: Sequence[Fault]) -> None:
        """Count a batch. rows: source -> number of rows. Raises TooManyFaultsError if a source exceeds the limit."""
        self.rows.update(rows)
        for source, reason, example in faults:
            key = source, reason
            self.counts[key] += 1
            known = self.examples.setdefault(key, [])
            if len(known) < MOST_EXAMPLES and example not in known:
                known.append(example)
                log.warning("%s: %s; another image of the source was put in its place", source, example)
        for source in {fault.source for fault in faults}:
            bad = sum(count for (name, _), count in self.counts.items() if name == source)
            if bad > self.limit * max(self.rows[source], LEAST_ROWS):
                raise TooManyFaultsError(
                    f"{bad:,} of {self.rows[source]:,} images of {source} could not be read, more than max_unreadable="
                    f"{self.limit:g} allows:\n{self.table()}\nMend the data (`python -m lit_blip2 data check` finds "
                    "all), or raise data.max_unreadable"
                )

    def table(self) -> str:
        """A line for each source and reason."""
        return "\n".join(
            f"  {source}, {reason}: {count:,} (such as {self.examples[source, reason][0]})"
            for (source, reason), count in self.counts.most_common()
        )

    def write(self, file: Path) -> None:
        """Write JSON: the rows of each source, and each reason for faults with its count and examples."""
        content: dict = {"rows": dict(self.rows), "sources": {}}
        for (source, reason), count in self.counts.items():
            entry = {"count": count, "examples": self.examples[source, reason]}
            content["sources"].setdefault(source, {})[reason] = entry
        write_json(file, content, indent=1)
