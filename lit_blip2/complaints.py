"""Turns a parser's complaint into plain lines, one for each problem, with what was probably meant."""

import argparse
import difflib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

YAML = (".yaml", ".yml")
MOST_SAID = 2000  # characters of a complaint, which repeats the value that is wrong
NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
NO_MODULE = re.compile(r"No module named '([\w.]+)'")
NO_PATH = re.compile(r"expected path but ([A-Za-z_]\w*(?:\.\w+)+) either not accessible or invalid")  # a class
NOT_ACCEPTED = re.compile(r"(?:Subcommand|Group) '\w+' does not accept option '([^']+)'")
CHOICE = re.compile(r"invalid choice: '?(.*?)'? \(choose from (.*)\)")


def hint(name: str, known: Iterable[str]) -> str:
    """A hint such as `, did you mean 'fit'`; empty if no known name is close."""
    close = _closest(name, known)
    return f", did you mean {close!r}" if close else ""


def _closest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, ignoring case; empty if none is near."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[close[0]] if close else ""


def no_file(path: str | Path) -> str:
    """A message that there is no such file, with a file beside it of nearly the same name."""
    path = Path(path)
    endings = YAML if path.suffix in YAML else (path.suffix,)
    there = [each for ending in endings for each in path.parent.glob(f"*{ending}")] if path.parent.is_dir() else []
    beside = {each.name: each for each in there}
    meant = beside.get(_closest(path.name, beside))
    return f"no file {str(path)!r}" + (f", did you mean {str(meant)!r}" if meant else "")


def problems(complaint: str, parser: argparse.ArgumentParser) -> list[str]:
    """The problems in a parser's complaint, a line each."""
    if unknown := re.fullmatch(r"unrecognized arguments: (.*)", complaint, re.DOTALL):
        words = unknown[1].split()
        first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
        options = [word for word in words[first:] if word.startswith("-")]  # the words between are their values
        return [_unknown(word, parser) for word in [*words[:first], *options]]
    if re.fullmatch(r"the following arguments are required: \w+\.(data|model)\b.*", complaint):
        return ["no experiment: give one by --config, such as --config experiments/mini_stage1.yaml"]
    if found := NOT_ACCEPTED.fullmatch(complaint):
        return [f"unknown setting {found[1]!r}{hint(found[1], _settings(parser))}"]
    if found := re.search(r"(File does not exist|Path is not a file): '(.+)'", complaint):
        path = os.path.relpath(found[2])
        return [no_file(path) if found[1].startswith("File") else f"{path} is a folder: give the path of a file in it"]
    if found := CHOICE.search(complaint):
        place = re.match(r"argument (\S+): ", complaint)
        choices = [each.strip("' ") for each in found[2].split(",")]
        said = f"{found[1]!r} is not one of {', '.join(choices)}{hint(found[1], choices)}"
        return [f"{place[1]} {said}" if place else said]
    said, name = reason(complaint), misspelt(complaint)
    return [said if name is None or ", did you mean " in said else said + _elsewhere(name, parser)]


def _elsewhere(name: str, parser: argparse.ArgumentParser) -> str:
    """The only setting of the same last name, in the files that were read: `warmup_steps` is one of the optimiser's."""
    last = name.rpartition(".")[2].removeprefix("--")
    same = [each for each in getattr(parser, "placed", ()) if each.endswith(f".{last}")]
    meant = f"{'--' * name.startswith('--')}{same[0]}" if len(same) == 1 else ""
    return f", did you mean {meant!r}" if meant else ""


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    if not word.startswith("-"):
        way_out = f": give it by --config {word}" if word.endswith((".yaml", ".yml")) else ""
        return f"unexpected argument {word!r}{way_out}"
    name = word.partition("=")[0]
    meant = _elsewhere(name, parser) or hint(name, [f"--{each}" for each in _settings(parser)])
    return f"unknown option {name}{meant}"


def without(arguments: Sequence[str], complaint: str) -> list[str] | None:
    """The arguments of a command without those that a complaint is about, so that further problems are found. None if
    the complaint is about no single argument, or about a file or a class that other arguments need."""
    if unknown := re.fullmatch(r"unrecognized arguments: (.*)", complaint, re.DOTALL):
        words = unknown[1].split()
        return [each for each in arguments if each not in words] if words[0].startswith("-") else None
    option, places = re.search(r"Option '([^']+)' is not accepted", complaint), _places(complaint)
    if not places or places[0] == "config" or NO_CLASS.search(complaint) or "dot import path" in complaint:
        return None
    kept, is_value = [], False
    for word in arguments:
        key, equals, _ = word.removeprefix("--").partition("=")
        dropped = word.startswith("--") and _is_about(key.rstrip("+"), places[0], option and option[1])
        if not dropped and not (is_value and not word.startswith("--")):
            kept.append(word)
        is_value = dropped and not equals
    return kept if len(kept) < len(arguments) else None


def misspelt(complaint: str) -> str | None:
    """The setting, without init_args, whose name a complaint refuses; None for another complaint."""
    if found := NOT_ACCEPTED.fullmatch(complaint):
        return found[1]
    option, places = re.search(r"Option '([^']+)' is not accepted", complaint), _places(complaint)
    return f"{places[0]}.{option[1]}" if option and places else None


def _is_about(key: str, place: str, option: str | None) -> bool:
    """Whether a key of the command line, with or without init_args, is the setting `place` or `option` of its class."""
    short = key.replace(".init_args", "")
    return short == place if option is None else short in (place, f"{place}.{option}")


def _settings(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser and of the commands below it, without their dashes."""
    found = {option.removeprefix("--") for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(_settings(each) for each in action._name_parser_map.values()))
    return found


def reason(complaint: str) -> str:
    """What is wrong, in one line: the setting, the class that it is an argument of, and jsonargparse's first innermost
    complaint about it. If a setting may have several types, the one that only lacks an argument counts."""
    unknown = re.search(r"Option '([^']+)' is not accepted", complaint)
    if unknown is not None and _places(complaint):  # else it is in one line already
        begun, rest = complaint[: unknown.end()], complaint[unknown.end() :]
        inner = re.match(r"\. Got value: Namespace\(class_path='([^']+)'", rest)
        classes = [inner[1]] if inner else _classes(begun)
        known = _arguments(classes[0]) if classes else []
        return _shortened([*_places(begun), *classes, unknown[0] + hint(unknown[1], known)])
    if found := NO_CLASS.search(complaint):
        return _shortened([*_places(complaint), f"no class '{found[1]}.{found[2]}'{_class_meant(*found.groups())}"])
    if found := NO_MODULE.search(complaint) or NO_PATH.search(complaint):
        module = found[1] if found.re is NO_MODULE else found[1].rpartition(".")[0]
        return _shortened([*_places(complaint), no_module(module)])
    if found := re.search(r"Expected a dot import path string: (\S+)", complaint):
        said = f"{found[1]!r} is no class: give its whole name{_class_meant('', found[1])}"
        return _shortened([*_places(complaint), said])
    if found := re.search(r"Errors:\n\s*- Not a valid subclass of .*", complaint, re.DOTALL):
        # The error of the given class itself stands among complaints about other types.
        kinds = re.findall(r"^ {0,4}- (.*)", found[0], re.MULTILINE)
        if own := [each for each in kinds if not re.match(r"Expected an? |Not a valid |Problem with given ", each)]:
            return _shortened([*_places(complaint), own[-1]])
    nested = re.search(r"Errors:\n\s*- (.*?)(?:\n\s*- Expected a <class 'NoneType'>|\Z)", complaint, re.DOTALL)
    lines = [line.strip() for line in (nested[1] if nested else complaint).strip().splitlines()]
    last = lines[-1].split("callable class: ")[-1].split(". Got value: Namespace")[0]
    if kinds := [found[1] for line in lines if (found := re.fullmatch(r"(?:- )?Expected an? (.*)", line))]:
        given = re.findall(r"Given value: (?!Nested|Namespace)(.*)", complaint)[:1]
        last = f"expected {' or '.join(kinds)}" + "".join(f", got {value}" for value in given)
        last = re.sub(r"<class '([\w.]+)'>", r"\1", last).replace("typing.", "").replace(". Got value:", ", got")
        last += hint(last.rpartition(", got ")[2], re.findall(r"'([^']+)'", last.partition(", got ")[0]))
    return _shortened([*_places(complaint), *_classes("\n".join(lines)), last])


def _places(complaint: str) -> list[str]:
    """The setting that a complaint is about, if it says so."""
    keys = re.findall(r'Parser key "([^"]+)":', complaint)
    return [".".join(keys)] if keys else []


def _classes(complaint: str) -> list[str]:
    """The innermost class that a complaint names, if any."""
    return re.findall(r"Problem with given class_path '(.+)':", complaint)[-1:]


def _arguments(class_path: str) -> Sequence[str]:
    """The names of a class's arguments. Empty if its module is not imported: a message imports nothing."""
    module, _, name = class_path.rpartition(".")
    made = getattr(sys.modules.get(module), name, None)
    if not inspect.isclass(made):
        return []
    from jsonargparse._parameter_resolvers import get_signature_parameters  # also what it passes **arguments on to

    return [each.name for each in get_signature_parameters(made, "__init__", logger=False)]


def _class_meant(module: str, name: str) -> str:
    """A hint at the class or module in `module` that may have been meant; without a module, at one of our classes."""
    if module:
        there = sys.modules.get(module)
        names = {*vars(there), *(each.name for each in pkgutil.iter_modules(getattr(there, "__path__", [])))}
        return hint(f"{module}.{name}", [f"{module}.{each}" for each in names if not each.startswith("_")])
    loaded = [vars(each) for key, each in list(sys.modules.items()) if key.startswith("lit_blip2.")]
    classes = {each.__name__: each for names in loaded for each in names.values() if inspect.isclass(each)}
    ours = {
        key: f"{each.__module__}.{key}" for key, each in classes.items() if each.__module__.startswith("lit_blip2.")
    }
    return f", such as {ours.get(_closest(name, ours), 'lit_blip2.data.coco.COCO')}"


def no_module(name: str) -> str:
    """A message that a module cannot be found, and where one is looked for."""
    package, _, last = name.rpartition(".")
    inside = getattr(sys.modules.get(package), "__path__", []) if package else [""]
    near = _closest(last, {each.name for each in pkgutil.iter_modules(inside)})
    meant = f", did you mean {'.'.join(filter(None, [package, near]))!r}" if near else ""
    own = "" if package else ": a module of your own must lie in the working folder or in a folder of PYTHONPATH"
    return f"no module {name!r}{meant}{own}"


def _shortened(parts: list[str]) -> str:
    said = ": ".join(parts)
    return said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]}..."
