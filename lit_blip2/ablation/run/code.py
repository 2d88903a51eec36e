"""Finds the code of this package that a step's results depend on: every definition that the classes of its config lead
to. A change elsewhere changes no result of the step, nor does a change in modules that only ask, refuse, tell or store.

A definition is a function, a class or a name that a module sets. It leads to the names in its source, as its module
defines or imports them, and to what a string such as "lit_blip2.lit.callbacks.EMA" names. A module counts whole if it
is used as an object, or if a name is not found in it. A module's statements that define nothing count too. Comments,
docstrings and blank lines do not count.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lit_blip2.config import strings
from lit_blip2.sources import PACKAGE, digest

# Code that every step's process runs: it chooses the checkpoint, reads settings and writes the compared metrics. The
# rest of the command line only makes the config, which counts by itself.
BEGIN = {
    f"{PACKAGE.name}.{name}"
    for name in ("go_on.go_on", "lit.callbacks.MetricsFile", "parser.counts_before_shares", "runs.find_checkpoint")
}
# Modules on which no number of a finished run depends. A module that is not named here counts.
NO_NUMBERS = {
    "allocator", "arguments", "complaints", "config", "console", "contents", "failed_start", "links",
    "loggers", "nulls",
    "offline", "paths", "refusals", "roll_call", "settings", "signature", "sources", "stopping",
    "terminal", "trust", "whole_files", "words", "what_next", "zeros", "data.annotations.unread", "data.faults",
    "data.missing", "lit.callbacks.print_metrics", "lit.callbacks.step_progress_bar", "lit.finite", "lit.foreign_paths",
    "lit.kept_batch", "lit.quiet", "lit.signals", "lit.watch", "model.side_files", "model.spelling",
    "model.tokenizer_files",
}  # fmt: skip
DOTTED = re.compile(rf"{PACKAGE.name}(\.\w+)+")
FILE = re.compile(r"[\w-]{1,60}\.\w{1,20}")
REST = ""  # in place of a name: a module's statements that define nothing
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Definition(NamedTuple):
    """texts: its statements. uses: dotted names that it uses. beside: files that it names in its module's folder."""

    texts: list[str]
    uses: set[str]
    beside: set[Path]


class Module(NamedTuple):
    """definitions: by name; other statements under REST. imported: name -> dotted name of what it stands for."""

    definitions: dict[str, Definition]
    imported: dict[str, str]


def code_digest(config: Any, package: Path = PACKAGE) -> str:
    """Digest of the code that the results of a step with this resolved config depend on. package: the folder of the
    sources."""
    names = BEGIN | {text for text in strings(config) if DOTTED.fullmatch(text)}
    return _digest(frozenset(names), package)


@cache
def _digest(names: frozenset[str], package: Path) -> str:
    parts: dict[str, bytes] = {}
    for module, name in reached(names, package):
        definition = _module(module, package).definitions[name]
        parts[f"{module}:{name}"] = "\n".join(definition.texts).encode()
        parts |= {str(file.relative_to(package)): file.read_bytes() for file in definition.beside}
    return digest(sorted(parts.items()))


def reached(names: Iterable[str], package: Path = PACKAGE) -> set[tuple[str, str]]:
    """(module, name) of every definition that dotted names lead to, without NO_NUMBERS."""
    found: set[tuple[str, str]] = set()
    open_names, seen = list(names), set()
    while open_names:
        if (dotted := open_names.pop()) in seen:
            continue
        seen.add(dotted)
        for module, name in _definitions_of(dotted, package):
            if (module, name) not in found:
                found.add((module, name))
                open_names += _module(module, package).definitions[name].uses
    return found


def _definitions_of(dotted: str, package: Path) -> Iterator[tuple[str, str]]:
    """The definitions that a dotted name stands for, and the statements that importing it runs."""
    words = dotted.split(".")
    modules = [".".join(words[:end]) for end in range(1, len(words) + 1)]
    modules = [name for name in modules if _file(name, package)]
    yield from ((name, REST) for name in modules if _counts(name))
    if not modules:  # of another package
        return
    if not _counts(modules[-1]):
        return
    module = _module(modules[-1], package)
    name = next(iter(words[len(modules) :]), None)
    if name in module.definitions:
        yield modules[-1], name
    elif name in module.imported:
        yield from _definitions_of(module.imported[name], package)
    else:
        yield from ((modules[-1], each) for each in module.definitions)


def _counts(module: str) -> bool:
    return module.partition(".")[2] not in NO_NUMBERS


def _file(module: str, package: Path) -> Path | None:
    """The file of a module of the package; None for another module."""
    top, *inner = module.split(".")
    path = package.joinpath(*inner)
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((each for each in files if top == package.name and each.is_file()), None)


@cache
def _module(name: str, package: Path) -> Module:
    file = _file(name, package)
    source = file.read_text(encoding="utf-8")
    statements, lines = ast.parse(source).body, _bare(source)
    imported = _imported(each for each in statements if not isinstance(each, DEFINITIONS))
    known = {each: f"{name}.{each}" for statement in statements for each in _names(statement)} | imported
    module = Module({REST: Definition([], set(), set())}, imported)
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        first = min(each.lineno for each in [statement, *getattr(statement, "decorator_list", [])])
        text = "\n".join(line for line in lines[first - 1 : statement.end_lineno] if line)
        uses, beside = _uses(statement, known), _beside(statement, file.parent)
        for each in _names(statement) or [REST]:
            definition = module.definitions.setdefault(each, Definition([], set(), set()))
            definition.texts.append(text)
            definition.uses.update(uses)
            definition.beside.update(beside)
    return module


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement defines; none if it may do more."""
    if isinstance(statement, DEFINITIONS):
        return [statement.name]
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return []
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _imported(statements: Iterable[ast.stmt]) -> dict[str, str]:
    """Name -> dotted name of what is imported under it."""
    found: dict[str, str] = {}
    for node in [node for statement in statements for node in ast.walk(statement)]:
        if isinstance(node, ast.Import):
            found |= {each.asname or each.name.partition(".")[0]: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def _uses(statement: ast.stmt, known: dict[str, str]) -> set[str]:
    """Dotted names of this package that a statement uses."""
    known = known | _imported([statement])
    nodes = list(ast.walk(statement))
    # Of a module or a class, only the attribute that is named counts; of anything else, the whole.
    inner = {id(node.value): node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names = [node for node in nodes if isinstance(node, ast.Name) and node.id in known]
    found = {".".join([known[each.id], *([inner[id(each)]] if id(each) in inner else [])]) for each in names}
    found |= {text for text in _strings(statement) if DOTTED.fullmatch(text)}
    return {each for each in found if each.partition(".")[0] == PACKAGE.name}


def _beside(statement: ast.stmt, folder: Path) -> set[Path]:
    """Files in a module's folder that a statement names, such as a table."""
    texts = {text for text in _strings(statement) if FILE.fullmatch(text) and not text.endswith(".py")}
    return {folder / text for text in texts if (folder / text).is_file()}


def _strings(statement: ast.stmt) -> set[str]:
    nodes = ast.walk(statement)
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _bare(source: str) -> list[str]:
    """The lines of a source without comments and docstrings; a line with nothing else is empty."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, *DEFINITIONS)) and ast.get_docstring(node, clean=False) is not None:
            said = node.body[0]
            lines[said.lineno - 1 : said.end_lineno] = [""] * (said.end_lineno - said.lineno + 1)
    return [line.rstrip() for line in lines]
