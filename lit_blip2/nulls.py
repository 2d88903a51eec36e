"""Finds nulls that a class does not take. jsonargparse lets them through, but null is not 0 or False."""

import inspect
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse._parameter_resolvers import get_signature_parameters  # what a class passes **arguments on to


def check_nulls(settings: Any, place: str) -> None:
    """Raises ValueError for a null argument of a class named at `place` or below, if the argument's type and default
    exclude None. An argument that is unknown, or has no type, may be anything."""
    if isinstance(settings, list):
        for number, each in enumerate(settings):
            check_nulls(each, f"{place}[{number}]")
    if not isinstance(settings, dict):
        return
    below = settings.get("init_args", {}) if "class_path" in settings else settings
    for name, value in (below or {}).items():
        if value is None and "class_path" in settings and not _takes_none(settings["class_path"], name):
            raise ValueError(f"{place}.{name} is null, and must have a value: leave it out for its default")
        check_nulls(value, f"{place}.{name}")


def _takes_none(class_path: str, name: str) -> bool:
    """Whether an argument of a class, or of one that it passes its further arguments on to, may be None."""
    module, _, own = class_path.rpartition(".")
    made = getattr(import_module(module), own)
    for each in getattr(made, "__mro__", ()):
        if (argument := inspect.signature(each.__init__).parameters.get(name)) is not None:
            try:
                kind = get_type_hints(each.__init__).get(name, Any)
            except NameError:  # of a type that is imported for type checkers alone
                return True
            return _is_optional(kind, argument.default)
    passed_on = get_signature_parameters(made, "__init__", logger=False) if inspect.isclass(made) else []
    return all(_is_optional(each.annotation, each.default) for each in passed_on if each.name == name)


def _is_optional(kind: Any, default: Any) -> bool:
    """Whether an argument of this type, text where it is not known, and this default may be None."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else [kind]
    return default is None or isinstance(kind, str) or not {Any, NoneType, inspect.Parameter.empty}.isdisjoint(kinds)
