"""The rules of a test: how answers and captions are made and scored, and in which precision.

Rules are arguments of the model, under the names that a user gives them, the network's `prompt`, and precisions. A test
writes them to decoding.json beside its metrics, and `validate` to validate_decoding.json. Both files also name random
parts of the network; decoding.json has a number that identifies the tested weights.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_blip2.config import Experiment
from lit_blip2.contents import read_object, reading, texts_in
from lit_blip2.evaluation.evaluated import METRICS, is_tested, read_metrics
from lit_blip2.whole_files import write_json

FILE, VALIDATED = "decoding.json", "validate_decoding.json"
SEARCH = ("max_new_tokens", "num_beams", "length_penalty")
ANSWERS = ("question", *(f"vqa_{name}" for name in SEARCH), "in_context", "lemmatise", "scoring")
CAPTIONS = ("prompt", *(f"caption_{name}" for name in SEARCH), "caption_tokenizer")
# The first part of a metric's name -> the rules that apply to it
RULES = {
    "vqa": ANSWERS,
    "caption": CAPTIONS,
    "loss": ("prompt",),
    "retrieval": ("rerank",),
    "binding": (),
    "pope": ANSWERS,
    "probe": (),
}
PRECISIONS = ("precision", "vision.dtype", "language.dtype", "language.bits")  # these apply to every metric
ALL = (*dict.fromkeys(name for names in RULES.values() for name in names), *PRECISIONS)
ALIASES = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # Lightning's
SCORING = ("lemmatise", "scoring", "caption_tokenizer")  # tests that differ in these are not comparable
OF_TESTS = {"caption_tokenizer": "spaces", "in_context": 0}  # a validation's, whatever is set
LONGEST = 60  # characters of a folder's name
Rules = dict[str, Any]


def rules_of(experiment: Experiment, command: str = "test") -> Rules:
    """The rules in an experiment's settings: all of them if its defaults were filled in."""
    given = experiment.model | {name: experiment.net[name] for name in ("prompt",) if name in experiment.net}
    found = {name: given[name] for name in ALL if name in given} | precisions_of(experiment)
    return found if command == "test" else of_validation(found)


def precisions_of(experiment: Experiment) -> Rules:
    """The trainer's precision, and the dtype and bits of the network's frozen parts."""
    parts = {"vision": experiment.vision, "language": experiment.language}
    found = {f"{name}.{key}": part[key] for name, part in parts.items() for key in ("dtype", "bits") if key in part}
    if "precision" in experiment.trainer:
        given = experiment.trainer["precision"]
        found["precision"] = ALIASES.get(str(given), given)
    return found


def of_validation(rules: Rules) -> Rules:
    """The rules of a validation, from those of a test."""
    return rules | {name: OF_TESTS[name] for name in OF_TESTS if name in rules}


def write_rules(
    folder: Path,
    rules: Rules,
    preset: str | None = None,
    random: Sequence[str] = (),
    weights: float | None = None,
    name: str = FILE,
) -> None:
    """Write rules to a file in a folder. preset: their name. random: parts of the network with random weights. weights:
    norm of the weights."""
    told = {"random": list(random) or None, "preset": preset, "weights": weights}
    kept = {name: value for name, value in told.items() if value is not None} | rules
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / name, kept)


def read_rules(folder: Path) -> Rules:
    """The rules of the test in a folder; of an older test, those that its file has. Raises DataError for a damaged
    file."""
    kept = _kept(folder)
    if "answers" in kept or isinstance(kept.get("scoring"), dict):
        with reading(folder / FILE, "file of rules"):
            kept = _older(kept)
    return {"scoring": "official"} | {name: value for name, value in kept.items() if name in ALL}


def read_random(folder: Path) -> list[str]:
    """Which parts of the network had random weights in the test of a folder."""
    return texts_in(_kept(folder), "random", folder / FILE)


def _kept(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    return read_object(file) if file.exists() else {}


def _older(kept: Mapping[str, Any]) -> Rules:
    """The rules in a file of the older format, which groups them by task."""
    answers, captions, scoring = (dict(kept.get(name, {})) for name in ("answers", "captions", "scoring"))
    found = {"question": answers.get("prompt"), "in_context": answers.get("in_context")}
    found |= {"prompt": captions.get("prompt"), "caption_tokenizer": scoring.get("tokenizer")}
    found |= {"scoring": scoring.get("answers"), "lemmatise": scoring.get("lemmatise")}
    for task, of_task in (("vqa", answers), ("caption", captions)):
        found |= {f"{task}_{name}": of_task.get(name) for name in SEARCH}
    return {name: value for name, value in found.items() if value is not None}


def kept_rules(folder: Path) -> Rules:
    """The rules of the test whose metrics are in a folder; {} without a test."""
    file = folder / METRICS
    return read_rules(folder) if file.exists() and is_tested(read_metrics(file)) else {}


def is_of_other_weights(folder: Path, weights: float) -> bool:
    """Whether a folder has metrics of a test whose weights had another norm than `weights`."""
    file = folder / METRICS
    known = _kept(folder).get("weights") if file.exists() and is_tested(read_metrics(file)) else None
    return isinstance(known, float) and not math.isclose(known, weights, rel_tol=1e-9)


def of_metric(rules: Rules, metric: str) -> Rules:
    """The rules that apply to a metric."""
    return {name: rules[name] for name in (*RULES.get(metric.partition("/")[0], ()), *PRECISIONS) if name in rules}


def differing(one: Rules, two: Rules) -> dict[str, tuple[Any, Any]]:
    """Rules that both have and that differ, with both values."""
    return {name: (one[name], two[name]) for name in ALL if name in one and name in two and one[name] != two[name]}


def told(other: Mapping[str, tuple[Any, Any]]) -> str:
    """Differing rules as text."""
    return "; ".join(f"{name}: {one!r} and {two!r}" for name, (one, two) in other.items())


def folder_name(rules: Mapping[str, Any]) -> str:
    """`scoring=lavis,vqa_num_beams=3`: a name for the folder of a test by these rules."""
    told = ",".join(f"{name}={value}" for name, value in rules.items())
    return re.sub(r"[^\w.,=+-]+", "_", told)[:LONGEST]
