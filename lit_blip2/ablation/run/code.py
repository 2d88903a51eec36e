"""The files of code behind the classes that a config names, wherever they lie: found and read, never imported.

Of a class of one's own these are

- all Python files of its package, since a package may import its parts by names that it makes up; of a module that is
  in no package, itself;
- what these files import from elsewhere outside the installed libraries, also where they put a folder on the path;
- the files that their strings name, such as a table of words: "words.txt", "tables/*.txt", f"words_{language}.txt", a
  folder, or a suffix such as ".json". They lie beside the module, up to two folders above it, or below the working
  folder.

Of a package of more than MOST_READ files, what is imported and named is read of the modules that somebody names alone.
Of an installed library it is its own package alone; those whose versions a sweep keeps have none to be read.
"""

import ast
import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import translate
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from lit_blip2.config import strings

LIBRARIES = ("torch", "torchvision", "lightning", "transformers", "timm", "numpy")  # a sweep keeps their versions
PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
INSTALLED = tuple(os.path.realpath(sysconfig.get_path(name)) for name in PATHS)
LONGEST_NAME = 200  # of a file that a string may name
LARGEST = 2**24  # bytes of a file that no string names in full
GAP = r"\*+|%[sd]|\{\w*\}"  # in a string that stands for several names
MOST_READ = 60  # files of a package whose strings and imports are read too; of a larger one those of the named modules
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class Reads(NamedTuple):
    """What a file of code leads to: dotted names of modules that it imports or names, folders that may be on the path
    when it does, and files that its strings name."""

    names: list[str]
    folders: list[Path]
    files: list[Path]


def code_files(config: Any, package: Path) -> list[Path]:
    """The files that a resolved config leads to, those of `package` and of LIBRARIES left out."""
    for each in (_below, _names):  # what lies there may have changed
        each.cache_clear()
    found: dict[Path, None] = {}
    waiting: list[Path] = []

    def add(name: str, folders: list[Path], chosen: bool = False) -> None:
        """chosen: by the config, not by a file that imports it."""
        files = [each for each in _modules(name, folders, package) if each not in found]
        files = files if chosen else [each for each in files if not _is_installed(each)]
        found.update(dict.fromkeys(files))
        waiting.extend(files if len(files) <= MOST_READ else [each for each in files if _is_named(each, name)])

    for name in sorted(text for text in strings(config) if DOTTED.fullmatch(text)):
        add(name, [], chosen=True)
    for file in waiting:  # grows by what is found
        if file.suffix == ".py" and not _is_installed(file):
            reads = _reads(file, file.stat().st_mtime_ns)
            for name in reads.names:
                add(name, reads.folders)
            new = [each for each in reads.files if each not in found and package not in each.parents]
            found.update(dict.fromkeys(new))
            waiting += new
    return sorted(found)


def _is_named(file: Path, name: str) -> bool:
    """Whether a dotted name means what stands in a module, or in a package by its __init__."""
    module = file.parent if file.stem == "__init__" else file.with_suffix("")
    parts = name.split(".")
    return any(module.parts[-count:] == tuple(parts[:count]) for count in range(1, len(parts) + 1))


def _modules(name: str, folders: list[Path], package: Path) -> list[Path]:
    """The Python files of the package, or the file of the module, that a dotted name begins with."""
    top = name.split(".")[0]
    if not top or top in (package.name, *LIBRARIES):
        return []
    spec = None
    with suppress(ImportError, ValueError):  # a command finds first what lies where it is started
        spec = PathFinder.find_spec(top, [os.getcwd(), *map(str, folders)]) or importlib.util.find_spec(top)
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return sorted(
        file for place in spec.submodule_search_locations for file in _below(Path(place)) if file.suffix == ".py"
    )


@cache
def _below(folder: Path) -> list[Path]:
    """Every file, behind links too, but for what is no source; each real folder once, as links may lead in circles."""
    found, seen = [], set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen or where.endswith("__pycache__"):
            folders.clear()
            continue
        seen.add(real)
        found += [Path(where) / name for name in names]
    return found


@cache
def _reads(file: Path, written: int) -> Reads:
    """written: when the file was, in ns."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # whoever runs it will say so
        return Reads([], [], [])
    texts = {text for node in nodes for text in _texts(node) if 0 < len(text) < LONGEST_NAME and text.isprintable()}
    names = {name for node in nodes for name in _imported(node)} | {text for text in texts if DOTTED.fullmatch(text)}
    folders = [file.parent, *(file.parent / text for text in texts if (file.parent / text).is_dir())]
    return Reads(sorted(names), folders, _named_files(file, texts))


def _imported(node: ast.AST) -> list[str]:
    """Names of modules that a statement imports, or a call of import_module. Imports by a dot stay in the package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [] if node.level else [node.module]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        by = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return [node.args[0].value] if by in ("import_module", "__import__") else []
    return []


def _texts(node: ast.AST) -> Iterator[str]:
    """The string that a node is; of one with gaps a pattern that has a * for each."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)


def _named_files(file: Path, texts: set[str]) -> list[Path]:
    """Files that the texts of a module name, whole or joined part by part: "tables" and "words.txt"; or with gaps."""
    here = Path.cwd()
    above = [folder for folder in file.parents[1:3] if here in (folder, *folder.parents)]
    roots = list(dict.fromkeys([file.parent, *above, here]))
    patterns = {re.sub(GAP, "*", text).lstrip("/") for text in texts if re.search(GAP, text)}
    patterns |= {f"*{text}" for text in texts if re.fullmatch(r"\.\w+", text)}
    patterns = {text for text in patterns if text.strip("*/.")}
    found = [root / text for root in roots for text in texts if "/" in text and "*" not in text]
    places = [*roots, *(each for each in found if each.is_dir() and here in each.parents and ".." not in each.parts)]
    for place in places:  # grows by the folders that are found
        inner = [place / name for name in _names(place) & texts]
        found += inner
        places += [each for each in inner if each not in places and each.is_dir()]
    named = places[len(roots) :]
    listed = [place / name for place in named if file.parent in place.parents for name in _names(place)]
    like = re.compile("|".join(map(translate, sorted(text for text in patterns if "/" not in text))) or "(?!)")
    listed += [place / name for place in [file.parent, *named] for name in _names(place) if like.fullmatch(name)]
    listed += [each for root in roots for text in patterns if "/" in text for each in _matching(root, text)]
    if file.parent != Path.cwd():
        listed += [each for each in _below(file.parent) if like.fullmatch(each.name)]
    return sorted({each for each in found if each.is_file()} | set(_small(listed)))


@cache
def _names(folder: Path) -> frozenset[str]:
    """What lies in a folder, but for what is hidden."""
    with suppress(OSError):
        return frozenset(name for name in os.listdir(folder) if name[0] != "." and name != "__pycache__")
    return frozenset()


def _matching(folder: Path, pattern: str) -> list[Path]:
    with suppress(ValueError, NotImplementedError):  # an absolute one, or two stars that are no pattern
        return list(folder.glob(pattern))
    return []


def _small(files: Iterable[Path]) -> list[Path]:
    return [each for each in files if each.is_file() and each.stat().st_size <= LARGEST and each.suffix != ".pyc"]


def _is_installed(file: Path) -> bool:
    return os.path.realpath(file).startswith(INSTALLED)
