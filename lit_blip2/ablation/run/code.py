"""The files of code behind the classes that a config names, wherever they lie: found and read, never imported.

Of a class of one's own these are its module, the packages around it, what these import from beside them or from
elsewhere outside the installed libraries, and files that they name in a string, such as a table of words: beside them,
or below the working folder.
Of an installed library it is its own package alone; those whose versions a sweep keeps have none to be read.
"""

import ast
import importlib.util
import os
import re
import sysconfig
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from lit_blip2.ablation.spec.values import strings

LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "numpy")  # a sweep keeps their versions
PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
INSTALLED = tuple(os.path.realpath(sysconfig.get_path(name)) for name in PATHS)
LONGEST_NAME = 200  # of a file that a string may name


class Reads(NamedTuple):
    """What a file of code leads to: dotted names that it imports, modules beside it that it imports by a dot, and files
    that its strings name."""

    names: list[str]
    modules: list[Path]
    others: list[Path]


def code_files(config: Any, package: Path) -> list[Path]:
    """The files of code that a resolved config leads to, those of `package` and of LIBRARIES left out."""
    names = sorted(text for text in strings(config) if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text))
    left_out = (package.name, *LIBRARIES)
    waiting = [(file, name.split(".")[0]) for name in names for file in files_of(name)]
    found: set[Path] = set()
    while waiting:
        file, top = waiting.pop()
        if top in left_out or file in found:
            continue
        found.add(file)
        reads = _reads(file, file.stat().st_mtime_ns)
        found |= set(reads.others)
        waiting += [(each, top) for each in reads.modules]
        imported = [(each, name.split(".")[0]) for name in reads.names for each in files_of(name)]
        waiting += [(each, own) for each, own in imported if own == top or not _is_installed(each)]
    return sorted(found)


def files_of(name: str) -> list[Path]:
    """The files that are run to import a dotted name, as far as it is one: packages first, then the module."""
    first, *rest = name.split(".")
    spec = _spec(first)
    files = [] if spec is None else [spec.origin]
    places = list(spec.submodule_search_locations or []) if spec else []
    for part in rest:
        spec = PathFinder.find_spec(part, places) if places else None
        if spec is None:
            break
        files.append(spec.origin)
        places = list(spec.submodule_search_locations or [])
    return [Path(os.path.realpath(file)) for file in files if file and file.endswith(".py")]


def _spec(top: str) -> ModuleSpec | None:
    """Where a module without dots lies: here first, as for a command that is started here."""
    with suppress(ImportError, ValueError):
        return PathFinder.find_spec(top, [os.getcwd()]) or importlib.util.find_spec(top)
    return None


@cache
def _reads(file: Path, written: int) -> Reads:
    """written: when the file was, in ns."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # whoever runs it will say so
        return Reads([], [], [])
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    modules: list[Path] = []
    for node in [node for node in nodes if isinstance(node, ast.ImportFrom)]:
        # What is imported from a module may be a module itself.
        below = [".".join(filter(None, (node.module, alias.name))) for alias in node.names]
        if node.level:
            modules += [each for name in below for each in _modules(file.parents[node.level - 1], name)]
        else:
            names += below
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    texts = {text for text in texts if 0 < len(text) < LONGEST_NAME and text.isprintable()}
    if not _is_installed(file):  # a string may name a module too, for importlib.import_module
        names += [text for text in texts if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text)]
        modules += [each for text in texts if text[0] == "." for each in _modules(file.parent, text[1:])]
        places = [file.parent, Path.cwd()]  # a sweep's commands start where it does
    else:
        places = [file.parent]
    return Reads(sorted(set(names)), modules, [each for place in places for each in _named_files(place, texts)])


def _named_files(folder: Path, texts: set[str]) -> list[Path]:
    """Files below a folder whose path the texts give, whole or joined part by part: "tables" and "words.txt"."""
    places, files = [folder], []
    for place in places:  # grows by the folders that are found
        found = [place / text for text in texts]
        files += [each for each in found if each.is_file()]
        places += [each for each in found if each not in places and _is_below(each, folder)]
    return files


def _modules(folder: Path, name: str) -> list[Path]:
    """The files that are run to import a dotted name from a folder."""
    files, place = [folder / "__init__.py"], folder
    for part in name.split("."):
        files += [place / f"{part}.py", place / part / "__init__.py"]
        place = place / part
    return [each for each in files if each.is_file()]


def _is_installed(file: Path) -> bool:
    return str(file).startswith(INSTALLED)


def _is_below(path: Path, folder: Path) -> bool:
    return path.is_dir() and folder in path.parents and ".." not in path.parts
