"""Fills an ablation's file at a scale: `scale.NAME` becomes what the scale gives, and what it lacks is left out.

The file is not checked yet: parts with an unexpected layout stay as they are.
"""

import copy
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

from lit_blip2.ablation.spec.scale import Scale
from lit_blip2.ablation.spec.values import as_dict, as_list, word
from lit_blip2.config import strings

PREFIX = "scale."  # "scale.stage1" stands for what the scale gives under the name stage1


class LackingError(ValueError):
    """The ablation cannot be run at this scale, and why."""


def names_in(value: Any) -> set[str]:
    """The names in a value that the scale must give."""
    return {text.removeprefix(PREFIX) for text in strings(value) if text.startswith(PREFIX)}


def fill(value: Any, gives: Mapping[str, Any], prefix: str = PREFIX) -> Any:
    """A copy in which each prefixed name is replaced by what is given for it; a name that is not given stays."""
    if isinstance(value, dict):
        return {key: fill(each, gives, prefix) for key, each in value.items()}
    if isinstance(value, list):
        return [fill(each, gives, prefix) for each in value]
    if isinstance(value, str) and value.startswith(prefix):
        return copy.deepcopy(gives.get(value.removeprefix(prefix), value))
    return value


def leave_out(raw: dict[str, Any], ablation: str, scale: Scale) -> tuple[dict[str, Any], list[str]]:
    """The file without the labels and metrics that the scale lacks, and a line for each of them that says why.

    Raises LackingError if the scale lacks the whole ablation, or something that its steps or its control need, or if
    nothing would be left to compare.
    """
    if why := scale.lacks.get(ablation) or _why(raw.get("steps"), scale):
        raise LackingError(why)
    labels = _labels(raw)
    lost = {place: why for place, settings in labels.items() if (why := _why(settings, scale))}
    told = [f"{axis}={label}: {why}" for (axis, label), why in lost.items()]
    if lost and (lost.keys() & _control(raw) or len(labels) - len(lost) == len(raw["axes"])):
        raise LackingError(f"it compares {'; '.join(told)}")
    names = [name for name in as_list(raw.get("metrics")) if isinstance(name, str)]
    metrics = [(metric, why) for metric in names if (why := _why_not(metric, scale))]
    if metrics and len(metrics) == len(raw["metrics"]):
        raise LackingError("; ".join(dict.fromkeys(why for _, why in metrics)))
    kept = _without(lost, raw) if lost else raw
    if gone := [metric for metric, _ in metrics]:
        kept = kept | {"metrics": [each for each in raw["metrics"] if each not in gone]}
        kept = _expecting(kept, lambda each: each.get("metric") not in gone)
    return kept, told + [f"{metric}: {why}" for metric, why in metrics]


def _why(value: Any, scale: Scale) -> str:
    """Why the scale lacks a name in this value: the reason of the first; empty if it lacks none."""
    return next((scale.lacks[name] for name in sorted(names_in(value)) if name in scale.lacks), "")


def _why_not(metric: Any, scale: Scale) -> str:
    return next((why for pattern, why in scale.lacks.items() if fnmatch.fnmatch(str(metric), pattern)), "")


def _labels(raw: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """(axis, label) -> its settings."""
    axes = as_dict(raw.get("axes")).items()
    return {(word(axis), word(label)): each for axis, labels in axes for label, each in as_dict(labels).items()}


def _control(raw: dict[str, Any]) -> set[tuple[str, str]]:
    """The control's labels; for an axis that it does not name, the first label."""
    first = dict(reversed(_labels(raw)))
    return set((first | {word(axis): word(label) for axis, label in as_dict(raw.get("control")).items()}).items())


def _without(lost: dict[tuple[str, str], str], raw: dict[str, Any]) -> dict[str, Any]:
    """The file without these labels, and without the cells, pairs and expectations that name them."""

    def stands(cell: Any) -> bool:
        return not any((word(axis), word(label)) in lost for axis, label in as_dict(cell).items())

    axes = {
        axis: {label: each for label, each in labels.items() if stands({axis: label})}
        if isinstance(labels, dict)
        else labels
        for axis, labels in raw["axes"].items()
    }
    without = [cell for cell in as_list(raw.get("without")) if stands(cell)]
    compare = [pair for pair in as_list(raw.get("compare")) if all(map(stands, as_list(pair)))]
    kept = raw | {"axes": axes, "without": without, "compare": compare}
    return _expecting(kept, lambda each: stands(each.get("better")) and stands(each.get("than")))


def _expecting(raw: dict[str, Any], stands: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The file with only those expected comparisons for which `stands` is true."""
    if not isinstance(expect := raw.get("expect"), dict):
        return raw
    kept = [each for each in as_list(expect.get("comparisons")) if not isinstance(each, dict) or stands(each)]
    return raw | {"expect": expect | {"comparisons": kept}}
