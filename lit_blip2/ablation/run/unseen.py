"""Finds what a module may use without reads.py seeing it: data files beside it or named in it, which code in C++ may
open, and installed libraries."""

import ast
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from lit_blip2.ablation.run.provenance import LIBRARIES
from lit_blip2.config import strings
from lit_blip2.sources import PACKAGE, digest

MODULE = (".py", *EXTENSION_SUFFIXES)
# Ends of the names of files that code in C++ or Rust opens by itself: weights, vocabularies, tables.
NATIVE = (".safetensors", ".gguf", ".h5", ".hdf5", ".bin", ".model", ".spm", ".parquet", ".arrow", ".lmdb", ".mdb")
NATIVE += ("tokenizer.json", "vocab.txt", "merges.txt")
MOST_DATA = 1000  # such files below a package; if there are more, all of them are left out
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def libraries(config: object, modules: Iterable[str]) -> list[str]:
    """Installed libraries that a config names or modules import, without LIBRARIES, whose versions the plan keeps."""
    tops = {text.partition(".")[0] for text in strings(config) if DOTTED.fullmatch(text)}
    tops |= {name.partition(".")[0] for path in modules for name in _imported(path)}
    tops -= {PACKAGE.name, *LIBRARIES, *sys.stdlib_module_names}
    return [top for top in sorted(tops) if top in _distributions()]


@cache
def _distributions() -> dict[str, list[str]]:
    """Top-level module -> the distributions that installed it."""
    return dict(importlib.metadata.packages_distributions())


def _imported(module: str) -> list[str]:
    nodes = _nodes(module)
    named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return named + [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]


@cache
def _nodes(module: str) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(Path(module).read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return []


def data_of(modules: Iterable[str]) -> set[str]:
    """Files that code in C++ or Rust may have read: those beside and below modules that lie in a package, and those
    that a string of a module names, from its folder or from the working folder."""
    here = os.getcwd()
    packages = {os.path.dirname(path) for path in modules}
    packages = {each for each in packages if not f"{here}/".startswith(f"{each}/")}
    texts = [
        (module, node.value)
        for module in modules
        for node in _nodes(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\0" not in node.value
    ]
    named = {os.path.join(root, text) for module, text in texts for root in (os.path.dirname(module), here)}
    named = {path for path in named if path.endswith(NATIVE) and _is_file(path)}
    return named.union(*map(_below, packages))


def _is_file(path: str) -> bool:
    with suppress(OSError, ValueError):  # a text that is no name of a file
        return os.path.isfile(path)
    return False


def _below(package: str) -> list[str]:
    found: list[str] = []
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        found += [os.path.join(folder, name) for name in names if name[0] != "." and name.endswith(NATIVE)]
        if len(found) > MOST_DATA:
            return []
    return found


@cache
def digest_of_library(name: str) -> str:
    """A digest of a library's version and of pip's list of its files; empty if it is no longer installed."""
    found = [importlib.metadata.distribution(each) for each in sorted(_distributions().get(name, []))]
    return digest((each.version, (each.read_text("RECORD") or "").encode()) for each in found) if found else ""
