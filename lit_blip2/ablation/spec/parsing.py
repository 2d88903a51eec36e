"""From a YAML file to a checked model: duplicate keys are refused, and all problems are reported at once."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lit_blip2.ablation.spec.values import word
from lit_blip2.complaints import hint, no_file
from lit_blip2.contents import DataError, Loader, parsed_yaml, read_text

MERGE = "tag:yaml.org,2002:merge"  # YAML's <<
NOTHING = (None, "", [], {})  # a key with one of these counts as not given
Model = TypeVar("Model", bound=BaseModel)


class OnceLoader(Loader):
    """Refuses a duplicate key in a mapping, where YAML itself would keep the last in silence. `yes` and `on` are
    duplicates too, because YAML reads both as true, and so are 1 and 1.0."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for each, _ in node.value:
            if not isinstance(each, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", each.start_mark)
            if each.tag != MERGE:
                key = self.construct_object(each)
                if {key, word(key)} & seen:
                    raise yaml.constructor.ConstructorError(None, None, _twice(each.value, key), each.start_mark)
                seen |= {key, word(key)}
        return super().construct_mapping(node, deep)


def _twice(text: str, key: Any) -> str:
    return f"{text!r} stands there twice" + (f", as {word(key)!r}" if text != word(key) else "")


def read_mapping(path: Path, example: Path, keys: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """What a file holds, without keys that hold nothing, and a problem for each key that is not in `keys`. example: a
    file that shows what such a file holds.

    Raises FileNotFoundError that lists the files beside the example, DataError for a file that holds no mapping.
    """
    if not path.is_file():
        known = ", ".join(sorted(map(str, example.parent.glob("*.yaml")))) or f"none in {example.parent}/"
        raise FileNotFoundError(f"{no_file(path)}; there are: {known}")
    raw = parsed_yaml(read_text(path), path, OnceLoader)
    if not isinstance(raw, dict):
        raise DataError(f"{path} holds no mapping: see {example} for the keys of such a file")
    problems = [unknown("key", key, keys) for key in map(word, raw) if key not in keys]
    return {word(key): value for key, value in raw.items() if value not in NOTHING and word(key) in keys}, problems


def parsed(model: type[Model], given: dict[str, Any]) -> tuple[Model | None, list[str]]:
    """The model, or None and its problems: each a line that names the key, what it must be, and its value."""
    try:
        return model.model_validate(given), []
    except ValidationError as error:
        return None, [line for each in error.errors() for line in _lines(each)]


def _lines(problem: dict[str, Any]) -> list[str]:
    place = [str(each) for each in problem["loc"]]
    where = ".".join(place)
    if problem["type"] == "value_error":  # from our own checks; those of a whole field name their places themselves
        own = str(problem["ctx"]["error"]).splitlines()
        return own if len(place) < 2 else [f"{where} {line}" for line in own]
    if problem["type"] == "missing":
        return [f"{where} is missing"]
    if problem["type"] == "extra_forbidden":
        return [f"{where} is no key here"]
    must = re.sub(r"^.* should ", "must ", problem["msg"]).replace("dictionary", "mapping")
    return [f"{where} {must}, not {problem['input']!r}"]


def complain(path: Path, problems: list[str]) -> None:
    """Raises DataError with all problems of a file, if there are any."""
    if problems:
        raise DataError(f"{path}:\n" + "\n".join(f"  - {problem}" for problem in problems))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A message that there is no such name, with the one that may have been meant and all that there are."""
    known = sorted(known)
    return f"{what} {name!r} is not known{hint(name, known)}; there are {', '.join(known) or 'none'}"
