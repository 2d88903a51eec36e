"""Limits what a file from elsewhere may name. Everything that builds from a checkpoint's configuration asks here.

The user's own YAML may name anything that can be imported. From a checkpoint's configuration only the network is built,
of this package's network classes and of what the user allowed (SECURITY.md says more). The check is made where the
parser imports, not on the text, because a name may come as a class_path at any depth, as a function in the place of a
class, or within a text that the parser reads as YAML once more.
"""

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

NETWORKS = ("lit_blip2.model", "lit_blip2.objectives", "lit_blip2.lit")  # where the classes of networks are
ALLOW_HELP = (
    "a package, module or class that the checkpoint's configuration may name, such as my_project; may be given again. "
    "By default only classes of lit_blip2 (SECURITY.md)"
)
FETCHED = re.compile(r"(hf[-_]hub|local-dir):|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
UNREAD = re.compile(r"[\x00-\x20]")  # what urllib, and so timm, ignores before and within an address
FETCHING = ("pretrained", "checkpoint_path", "cache_dir")  # beginnings of timm's arguments that look for weights


class NotAllowedError(ValueError):
    """A file from elsewhere asks for what it must not have."""


def add_allow(parser: ArgumentParser) -> None:
    """Give a command's parser the option `--allow`."""
    parser.add_argument("--allow", action="append", default=[], type=_name, metavar="NAME", help=ALLOW_HELP)


def taken_allow(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of each `--allow` on a command line, and the remaining arguments. Raises ArgumentTypeError for a value
    that could not be imported."""
    allow, rest, following = [], [], iter(arguments)
    for argument in following:
        option, equals, value = argument.partition("=")
        if option == "--allow":
            allow.append(_name(value if equals else next(following, "")))
        else:
            rest.append(argument)
    return allow, rest


def _name(given: str) -> str:
    if not all(part.isidentifier() for part in given.split(".")):
        raise ArgumentTypeError(f"--allow {given!r} is no name that could be imported, such as my_project")
    return given


@contextmanager
def importing_only(allow: Sequence[str] | None, source: str) -> Iterator[None]:
    """Context in which jsonargparse imports only classes of this package's networks, and what `allow` names or what is
    defined below that; with None, anything. Raises NotAllowedError with the first other name, which is not imported,
    and what to do."""
    if allow is None:
        yield
        return
    from jsonargparse import _actions, _typehints

    gate = _Gate(allow, _typehints.import_object, _typehints.get_import_path)
    watched = {(_typehints, "import_object"): gate.import_object, (_actions, "import_object"): gate.import_object}
    if hasattr(_typehints, "is_importable_module_path"):  # looks up an argument that is a module
        watched[_typehints, "is_importable_module_path"] = gate.module
    before = {place: getattr(*place) for place in watched}
    try:
        for place, ours in watched.items():
            setattr(*place, ours)
        yield
    except Exception as error:
        gate.check(source, error)
        raise
    finally:
        for place, own in before.items():
            setattr(*place, own)
    gate.check(source)


class _Gate:
    """Decides which names the parser may import, and records those that it refused. real: jsonargparse's import_object.
    path_of: its get_import_path."""

    def __init__(self, allow: Sequence[str], real: Callable[..., Any], path_of: Callable[[Any], str | None]):
        self.allow, self.real, self.path_of = set(allow), real, path_of
        self.refused: list[str] = []

    def import_object(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        """Import a dotted name; jsonargparse's own function raises for anything else. Raises ImportError for a name
        that is not allowed."""
        dotted = isinstance(name, str) and "." in name and all(each.isidentifier() for each in name.split("."))
        if dotted and not _below(name, (*NETWORKS, *self.allow)):
            self._refuse(name)
        found = self.real(name, *args, **kwargs)
        if dotted and not self._is_meant(name, found):
            self._refuse(name)
        return found

    def module(self, name: Any) -> bool:
        """Whether a name may be imported as a module, which no class of this package takes. Raises ImportError."""
        if isinstance(name, str) and not _below(name, self.allow):
            self._refuse(name)
        return isinstance(name, str)

    def _is_meant(self, name: str, found: Any) -> bool:
        """Whether what was found was defined where its name says: a module also holds what it imports, such as os."""
        if name in self.allow:
            self.allow.add(self.path_of(found))  # the name that the parser uses from now on
            return True
        if _below(name, NETWORKS):
            from torch import nn

            return isinstance(found, type) and issubclass(found, nn.Module) and _below(found.__module__, NETWORKS)
        return _below(getattr(found, "__module__", None) or "", (*NETWORKS, *self.allow))

    def _refuse(self, name: str) -> None:
        self.refused.append(name)
        raise ImportError(f"{name} is not allowed")

    def check(self, source: str, error: Exception | None = None) -> None:
        """Raises NotAllowedError if anything was refused."""
        if self.refused:
            name = self.refused[0]
            raise NotAllowedError(
                f"{source} names {name}, which is no class of this package's networks, and was not imported: if you "
                f"trust it, add --allow {name}, or the package that it is in (in Python: allow=[...])"
            ) from error


def _below(name: str, allowed: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{each}.") for each in allowed)


def check_fetches_nothing(settings: Any, source: str, way_out: str) -> None:
    """Raises NotAllowedError if settings would make timm or the parser fetch weights, or a network's settings. source,
    way_out: for the message."""
    for path, value in _leaves(settings):
        below = path[path.index("model_args") :] if "model_args" in path else ()
        asked = value and any(str(key).startswith(FETCHING) for key in below)
        if asked or (isinstance(value, str) and FETCHED.match(UNREAD.sub("", value))):
            place = ".".join(map(str, path))
            raise NotAllowedError(f"{source} asks for {place}={value!r}, and nothing is fetched for it: {way_out}")


def _leaves(settings: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    if isinstance(settings, dict | list | tuple):
        for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
            yield from _leaves(value, (*path, key))
    else:
        yield path, settings
