"""Tables whose first line names their columns: CSV with commas, TSV with tabs.

A cell that holds the separator must be in quotes: without them, a caption would end at its first comma. So every row
must have as many cells as the first line, except for empty cells at its end and for columns that are not read. A cell
in quotes must not hold what looks like rows: its quote then belongs to the text, and would swallow them. A file that
was cut within its last caption is not noticed, because many editors also write no newline at the end.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lit_blip2.contents import COPY_AGAIN, DataError, check_file
from lit_blip2.data.annotations.entries import Entry
from lit_blip2.data.annotations.pictures import ends_as_picture

SEPARATORS = {".csv": ",", ".tsv": "\t"}
READ = {"image", "caption", "file_name", "text", "image_id", "img_id"}  # columns of images and captions
_OTHERS = ",;\t|"
_NO_VALUE = {"nan", "NaN", "None", "<NA>"}  # how Python prints a value that is missing


def read_table(path: Path, more: Iterable[str] = ()) -> list[Entry]:
    """The rows of a .csv or .tsv, keyed by column; empty lines are skipped. more: columns that are read besides READ.

    Raises FileNotFoundError, or DataError naming the file and the line for: too many or too few cells in a row, quotes
    that do not close or close in another row, two read columns of one name, another separator, an encoding other than
    UTF-8, NULs, a file that ends within its last row.
    """
    separator, rows, line, known = SEPARATORS[path.suffix], [], 1, READ.union(more)
    check_file(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            lines = csv.reader(file, delimiter=separator, strict=True)
            names = _checked_names([name.strip() for name in next(lines, [])], separator, path, known)
            check_no_nulls(names, path, line)
            line = lines.line_num + 1
            for cells in lines:
                if cells:
                    check_no_nulls(cells, path, line)
                    rows.append(_row(names, cells, separator, path, line, known))
                line = lines.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read: {error}. Save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"{path}: the row at line {line}: {error}. Write a quote in quotes twice, as in RFC 4180"
        ) from error
    _check_end(rows, path)
    return rows


def check_no_nulls(cells: Iterable[str], path: Path, line: int) -> None:
    """Raises DataError for a NUL. Texts have none, but an interrupted copy leaves them in the part it did not reach."""
    if any("\0" in cell for cell in cells):
        raise DataError(f"{path}: line {line} holds a NUL, as a file does that was copied in part: {COPY_AGAIN}")


def _check_end(rows: list[Entry], path: Path) -> None:
    """Raises DataError for a file that ends within its last row: only that row lacks cells, and a newline."""
    cells = [len(row.values) for row in rows]
    if len(cells) < 2 or cells[-1] >= (others := min(cells[:-1])):
        return
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) in b"\r\n":
            return
    line = rows[-1].place[1]
    raise DataError(
        f"{path}: line {line} has {cells[-1]} cells, the others {others}, and no end: it is cut: {COPY_AGAIN}"
    )


def _checked_names(names: list[str], separator: str, path: Path, known: set[str]) -> list[str]:
    if twice := [name for name, count in Counter(names).items() if name in {*known, "split"} and count > 1]:
        raise DataError(f"{path}: two columns are named {twice[0]!r}")
    if names and names[0].lstrip()[:1] in ("[", "{") and not known.intersection(names):
        raise DataError(
            f"{path}: its first line, {names[0][:60]!r}, names no columns but begins JSON: call the file .json, or "
            ".jsonl where each line is an object"
        )
    if len(names) == 1 and (others := [mark for mark in _OTHERS if mark in names[0]]):
        raise DataError(
            f"{path}: its first line, {names[0][:60]!r}, is separated by {others[0]!r}: separate a {path.suffix} by"
            f" {separator!r}"
        )
    if not known.intersection(names) and (files := [name for name in names if ends_as_picture(name)]):
        raise DataError(
            f"{path}: its first line names no columns but {files[0][:60]!r}: put a line in front that does, such as "
            f"image{separator}caption"
        )
    return names


def _row(names: list[str], cells: list[str], separator: str, path: Path, line: int, known: set[str]) -> Entry:
    """A row, keyed by column. Cells past the last column may only be empty, and are dropped. Columns that a short row
    lacks are absent, if they are not read. A printed `nan` or `None` is an empty cell. Else raises DataError."""
    twice = {name for name, count in Counter(names).items() if count > 1}  # columns that are not read
    if any(cells[len(names) :]) or any(name in known for name in names[len(cells) :]):
        raise DataError(
            f"{path}: line {line} has {len(cells)} cells, and the first line names {len(names)} columns: put a cell"
            f" that holds {separator!r} in quotes. It begins with {separator.join(cells)[:60]!r}"
        )
    cells = ["" if cell.strip() in _NO_VALUE else cell for cell in cells]
    values = {name: cell for name, cell in zip(names, cells, strict=False) if name not in twice}
    suffix = Path(values.get("image") or values.get("file_name") or "").suffix
    swallowed = [each for cell in cells for each in cell.splitlines()[1:] if _is_row(each, separator, suffix)]
    if swallowed:
        raise DataError(
            f"{path}: line {line} has a cell in quotes that goes on over {swallowed[0][:60]!r}, which looks like a row:"
            " put a text that begins with a quote in quotes, and write its own twice, as in RFC 4180"
        )
    return Entry(values, path, ("line", line))


def _is_row(line: str, separator: str, suffix: str) -> bool:
    """Whether a line in a cell looks like a row: it has a tab, which texts lack, or a file with the row's suffix."""
    parts = line.split(separator)
    return len(parts) > 1 and (separator == "\t" or (suffix != "" and any(part.endswith(suffix) for part in parts)))
