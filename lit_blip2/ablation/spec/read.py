"""An ablation's YAML, read at a scale: a chain of steps, axes of labelled settings, the control cell, metrics.

    question: Which of ITC, ITM and ITG does what?
    expect: what would count as reproducing the paper's effect, said beforehand; expect.py says how a report decides it
    scale: small                                    # if none is asked for; scale.py says what a scale holds
    at: {small: {set: {stage1.trainer.max_steps: 400}, seeds: [0, 1]}}        # for one scale alone: these, prepare,
                                                    # and more expected comparisons
    steps:                                          # in order; a test reads the run of the step that it names
      stage1: {fit: scale.stage1}                   # what the scale gives under this name; or an experiment's file
      stage2: {fit: scale.stage2, set: {model.init_from: $stage1}}            # $stage1: that step's run
      vqa: {test: stage2, with: experiments/zero_shot/okvqa.yaml}             # a file given behind the experiment
    axes:                                           # axis: {label: {step.key: value}}
      itc: {on: {}, off: {stage1.model.net.itc: null}}
      llm: {opt: {}, t5: scale.t5}                  # stage2.fit: FILE is another experiment altogether
      queries: {8: {stage1.model.net.qformer.num_queries: axis.queries}}      # axis.queries: the label itself, here 8
    vary: product                                   # or one: vary one axis at a time, the others as in the control
    without: [{itc: off, llm: t5}]                  # cells to leave out
    control: {itc: on, llm: opt}                    # without it the first labels
    metrics: [vqa/mean_over_types]                  # of the last step that can write them; the first is the headline
    compare: [[{itc: off}, {llm: t5}]]              # more pairs than each against the control; the rest as in it
    seeds: [0, 1, 2]                                # of training and of the data's order, in place of the scale's
    prepare: [data make-mini --out data/mini]       # ordinary commands that run before the sweep, after the scale's

A search has ranges in place of labels, and a number of trials: `lr: {key: stage1.model.optimization.lr, low: 1.0e-4,
high: 1.0e-2, log: true}`, `trials: 40`; whole numbers stay whole. Optuna's TPE chooses by the first metric, to minimize
a loss or a perplexity and to maximize any other, unless `direction` says otherwise; trials that fall behind the median
at a validation are pruned.

Two axes may not set the same key, because one value would be lost in silence. A null may replace an earlier value.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from lit_blip2.ablation.spec.checks import problems_of
from lit_blip2.ablation.spec.expect import Expected
from lit_blip2.ablation.spec.fill import LackingError, fill, leave_out, names_in
from lit_blip2.ablation.spec.grid import Grid, Range
from lit_blip2.ablation.spec.parsing import complain, parsed, read_mapping, unknown
from lit_blip2.ablation.spec.scale import Scale, read_scale, scales
from lit_blip2.ablation.spec.values import Command, Settings, Word, as_dict
from lit_blip2.contents import MOST_SHOWN, parsed_yaml
from lit_blip2.terminal import one_line

EXAMPLE = Path("ablations/objectives.yaml")


class At(BaseModel):
    """What an ablation says for one scale. comparisons: more expected ones, such as at a step of this scale."""

    model_config = ConfigDict(extra="forbid")
    set: Settings = {}
    seeds: list[StrictInt] = []
    prepare: list[Command] = []
    comparisons: list[Expected] = []


class Scaling(BaseModel):
    """What an ablation says about scales."""

    scale: StrictStr = ""
    at: dict[Word, At] = {}


KEYS = {*Grid.model_fields, *Scaling.model_fields} - {"name", "ranges", "settings", "left_out"}


def read_grid(path: str | Path, scale: str = "", settings: Sequence[str] = ()) -> Grid:
    """Read and check an ablation's file.

    Args: the scale; empty: the one that the file names. Settings `step.key=value`, which override the file's own.
    Raises FileNotFoundError, or ValueError with everything that is wrong with the file.
    """
    path, asked = Path(path), dict(map(_setting, settings))
    raw, problems = read_mapping(path, EXAMPLE, KEYS)
    scaling, more = parsed(Scaling, raw)
    problems, scaling = problems + more, scaling or Scaling()
    chosen = scale or scaling.scale
    found = read_scale(chosen) if chosen else Scale()
    try:
        raw, left_out = leave_out(raw, path.stem, found)
    except LackingError as why:
        raise ValueError(f"{path} cannot be run at scale {chosen}: {why}") from why
    problems += _names(raw, scaling, found, chosen)
    given = _filled(raw, found, scaling.at.get(chosen, At())) | {"left_out": left_out}
    given["name"] = path.stem if chosen in ("", scaling.scale) else f"{path.stem}_{chosen}"
    given["settings"] |= asked
    grid, more = parsed(Grid, given)
    problems += more + _idle(raw, is_search=bool(given["ranges"]))
    complain(path, problems or [*problems_of(grid), *_lost(grid, asked)])
    return grid


def _setting(text: str) -> tuple[str, Any]:
    """`step.key=value`, the value as YAML reads it."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ValueError(f"--set {text} must be step.key=value, such as stage2.trainer.max_steps=8000")
    try:
        setting = parsed_yaml(value, "it")
        json.dumps(setting)
    except (ValueError, TypeError, RecursionError) as error:
        why = one_line(error)
        raise ValueError(
            f"--set {text[:MOST_SHOWN]}: {value[:MOST_SHOWN]!r} is no plain value of YAML ({why})"
        ) from error
    return key, setting


def _names(raw: dict[str, Any], scaling: Scaling, scale: Scale, chosen: str) -> list[str]:
    """Unknown names: of scales, and of what the scale must give."""
    problems = [unknown("at: scale", name, scales()) for name in scaling.at if name not in scales()]
    missing = sorted(_used(raw) - scale.gives.keys())
    if missing and not chosen:
        return [*problems, f"a scale must give {', '.join(missing)}: add scale: NAME, or give --scale NAME"]
    return problems + [unknown(f"scale {chosen}:", name, scale.gives) for name in missing]


def _used(raw: dict[str, Any]) -> set[str]:
    return names_in([raw.get("steps"), raw.get("axes")])


def _filled(raw: dict[str, Any], scale: Scale, at: At) -> dict[str, Any]:
    """A grid's fields, from the file; the scale adds what the file does not say itself."""
    given = {key: each for key, each in raw.items() if key not in Scaling.model_fields}
    given |= {key: fill(raw[key], scale.gives) for key in ("steps", "axes") if key in raw}
    if seeds := at.seeds or raw.get("seeds") or scale.seeds:
        given["seeds"] = seeds
    made = [line for name, lines in scale.prepare.items() if name in _used(raw) for line in lines]
    if isinstance(own := given.get("prepare", []), list):
        given["prepare"] = [*dict.fromkeys(made), *own, *at.prepare]
    if at.comparisons:
        expect = given.get("expect", "")
        expect = {"text": expect} if isinstance(expect, str) else as_dict(expect)
        given["expect"] = expect | {"comparisons": [*expect.get("comparisons", []), *at.comparisons]}
    steps, axes = as_dict(given.get("steps")), as_dict(given.get("axes"))
    common = {key: value for key, value in scale.set.items() if key.partition(".")[0] in steps}
    ranges = {axis: each for axis, each in axes.items() if _is_range(each)}
    given |= {"settings": common | at.set, "ranges": ranges}
    if ranges:
        given["axes"] = {axis: each for axis, each in axes.items() if axis not in ranges}
    return given


def _is_range(given: Any) -> bool:
    """Whether an axis has the ends of a range in place of labels. Labels may be called low and high."""
    is_labels = isinstance(given, dict) and all(isinstance(each, dict) for each in given.values())
    return isinstance(given, dict) and not is_labels and bool(Range.model_fields.keys() & given.keys())


def _idle(raw: dict[str, Any], is_search: bool) -> list[str]:
    """Keys that would do nothing."""
    if is_search:
        given = [key for key in ("vary", "control", "without", "compare") if key in raw]
        return [f"{key} does nothing in a search: it is for axes with labels" for key in given]
    given = [key for key in ("trials", "direction") if key in raw]
    return [f"{key} does nothing in a grid: it is for a search, whose axes are ranges" for key in given]


def _lost(grid: Grid, asked: dict[str, Any]) -> list[str]:
    """Problems of command-line settings that an axis sets too."""
    keys = {axis: {key for settings in labels.values() for key in settings} for axis, labels in grid.axes.items()}
    keys |= {name: {each.key} for name, each in grid.ranges.items()}
    return [
        f"--set {key}: axis {axis} sets it too, and one value would be lost"
        for axis, of_axis in keys.items()
        for key in asked
        if key in of_axis
    ]
