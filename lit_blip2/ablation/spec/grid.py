"""An ablation's YAML: a chain of steps, axes of labelled overrides, seeds, metrics, the control cell.

    question: Which of ITC, ITM and ITG does what?
    expect: what would count as reproducing the paper's effect, said beforehand
    prepare: [data make-mini --out data/mini]       # ordinary commands, run before all else
    steps:                                          # in order; a test reads the run of the step that it names
      stage1: {fit: experiments/mini_stage1.yaml, set: {trainer.max_steps: 400}}
      stage2: {fit: experiments/mini_opt.yaml, set: {model.init_from: $stage1}}     # $stage1: that step's run
      vqa: {test: stage2}
    axes:                                           # axis: {label: {step.key: value}}
      itc: {on: {}, off: {stage1.model.net.itc: null}}
      itm: {on: {}, off: {stage1.model.net.itm: null}}          # stage1.fit: FILE is another experiment altogether
    vary: product                                   # or one: each axis by itself, the others as in the control
    without: [{itc: off, itm: off}]                 # cells to leave out
    control: {itc: on, itm: on}
    seeds: [0, 1, 2]                                # of training and of the data's order
    metrics: [vqa/mean_over_types]                  # of the last step that can write them; the first is the headline
    compare: [[{itc: off}, {itm: off}]]             # more pairs than each against the control; the rest as in it

A search has ranges in place of labels, and a number of trials: `lr: {key: stage1.model.optimization.lr, low: 1.0e-4,
high: 1.0e-2, log: true}`, `trials: 40`; whole numbers stay whole. Optuna's TPE chooses by the first metric, to minimize
a loss or a perplexity and to maximize any other, unless `direction` says otherwise; trials that fall behind the median
at a validation are pruned.

Two axes may not set one key, lest one value be lost in silence; a null may stand over the value of an earlier axis.
"""

import itertools
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lit_blip2.ablation.spec.checks import check, check_free, check_key, unknown
from lit_blip2.ablation.spec.values import smaller_is_better, strings

MERGE = "tag:yaml.org,2002:merge"  # YAML's <<
NOTHING = (None, "", [], {})  # what a key may hold without being given
REFERENCE = "$"  # "$stage1" stands for the run folder of step stage1


@dataclass(frozen=True)
class Step:
    """One command of the chain: `fit` of an experiment file, or `test` of an earlier step's run."""

    name: str
    command: str
    target: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Range:
    """An axis of a search: a number from low to high for one key."""

    key: str
    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Cell:
    """One setting and one seed."""

    labels: dict[str, str]
    seed: int

    @property
    def name(self) -> str:
        """Such as `itc=on,itm=off,seed=0`."""
        return run_name(self.labels, self.seed)


@dataclass
class Grid:
    """A checked ablation file. Cells vary the seed fastest, so that workers seldom want one step at one time."""

    name: str
    steps: dict[str, Step]
    axes: dict[str, dict[str, dict[str, Any]]]
    metrics: list[str]
    control: dict[str, str]
    seeds: list[int]
    question: str = ""
    expect: str = ""
    prepare: list[str] = field(default_factory=list)
    without: list[dict[str, str]] = field(default_factory=list)
    compare: list[list[dict[str, str]]] = field(default_factory=list)
    vary: str = "product"
    ranges: dict[str, Range] = field(default_factory=dict)
    trials: int = 0
    direction: str = "maximize"
    slurm: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """Every cell, in order: the full product, or the control and what differs from it in one axis."""
        settings = [dict(zip(self.axes, labels)) for labels in itertools.product(*self.axes.values())]
        if self.vary == "one":
            settings = [each for each in settings if sum(each[a] != self.control[a] for a in self.axes) <= 1]
        kept = [each for each in settings if not any(out.items() <= each.items() for out in self.without)]
        return [Cell(labels, seed) for labels in kept for seed in self.seeds]

    def overrides(self, labels: dict[str, str], step: str) -> dict[str, Any]:
        """Keys of one step that these labels set, over those that the step itself sets."""
        found = dict(self.steps[step].overrides)
        for axis, label in labels.items():
            for key, value in self.axes[axis][label].items():
                owner, _, rest = key.partition(".")
                found |= {rest: value} if owner == step else {}
        return found


def run_name(labels: dict[str, str], seed: int) -> str:
    """`itc=on,itm=off,seed=0`."""
    return ",".join([*(f"{axis}={label}" for axis, label in labels.items()), f"seed={seed}"])


class OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML itself would keep the last in silence; so do `yes` and
    `on`, which are one word to YAML, or 1 and 1.0."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for each, _ in node.value:
            if not isinstance(each, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be one word", each.start_mark)
            if each.tag != MERGE:
                key = self.construct_object(each)
                if {key, _label(key)} & seen:
                    raise yaml.constructor.ConstructorError(None, None, _twice(each.value, key), each.start_mark)
                seen |= {key, _label(key)}
        return super().construct_mapping(node, deep)


def _twice(text: str, key: Any) -> str:
    return f"{text!r} stands there twice" + (f", as {_label(key)!r}" if text != _label(key) else "")


def read_grid(path: str | Path) -> Grid:
    """Read and check an ablation file.

    Raises FileNotFoundError, or ValueError with everything that is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(file) for file in Path("ablations").glob("*.yaml"))
        raise FileNotFoundError(
            f"no ablation file {str(path)!r}; there are: {', '.join(known) or 'none in ablations/'}"
        )
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), OnceLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds no mapping: see ablations/objectives.yaml for the keys of an ablation")
    try:
        grid, problems = _build(path.stem, raw)
    except (TypeError, AttributeError, KeyError, StopIteration) as error:
        raise ValueError(f"{path} is not laid out as an ablation ({error}): see ablations/objectives.yaml") from error
    if problems:
        raise ValueError(f"{path}:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return grid


def _build(name: str, raw: dict[str, Any]) -> tuple[Grid, list[str]]:
    allowed = {each.name for each in fields(Grid)} - {"name", "ranges"}
    problems = [unknown("key", str(key), allowed) for key in raw if key not in allowed]
    problems += [f"{key} is missing" for key in ("steps", "axes", "metrics", "seeds") if raw.get(key) in NOTHING]
    steps = _steps(_mapping(raw, "steps", problems), problems)
    axes, ranges = _axes(_mapping(raw, "axes", problems), steps, problems)
    text = {key: raw[key] for key in ("question", "expect", "vary", "trials") if key in raw}
    metrics = _list(raw, "metrics", str, problems)
    smaller = metrics and smaller_is_better(metrics[0])
    grid = Grid(
        name=name,
        steps=steps,
        axes=axes,
        ranges=ranges,
        metrics=metrics,
        control=_labels(raw.get("control") or {axis: next(iter(labels), "") for axis, labels in axes.items()}),
        seeds=_list(raw, "seeds", object, problems),
        prepare=_commands(raw, problems),
        without=[_labels(each) for each in _list(raw, "without", object, problems)],
        compare=[[_labels(each) for each in pair] for pair in _list(raw, "compare", list, problems)],
        direction=raw.get("direction") or ("minimize" if smaller else "maximize"),
        slurm=_mapping(raw, "slurm", problems),
        **text,
    )
    if not problems:
        check(grid, problems)
    problems += _idle(raw, bool(ranges))
    return grid, problems


def _idle(raw: dict[str, Any], is_search: bool) -> list[str]:
    """Keys that would do nothing."""
    if is_search:
        given = [key for key in ("vary", "control", "without", "compare") if raw.get(key) not in NOTHING]
        return [f"{key} does nothing in a search: it is for axes with labels" for key in given]
    given = [key for key in ("trials", "direction") if raw.get(key) not in NOTHING]
    return [f"{key} does nothing in a grid: it is for a search, whose axes are ranges" for key in given]


def _steps(raw: dict[str, Any], problems: list[str]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for name, given in raw.items():
        commands = [command for command in ("fit", "test") if isinstance(given, dict) and command in given]
        if len(commands) != 1 or set(given) - {"fit", "test", "set"}:
            problems.append(
                f"step {name} must be {{fit: FILE, set: {{...}}}} or {{test: STEP, set: {{...}}}}, not {given!r}"
            )
            continue
        command, overrides = commands[0], _mapping(given, "set", problems, f"step {name}: ")
        step = Step(str(name), command, str(given[command]), overrides)
        fits = [each.name for each in steps.values() if each.command == "fit"]
        if command == "fit":
            _check_file(f"step {name}: fit", given["fit"], problems)
        elif step.target not in fits:
            problems.append(unknown(f"step {name}: test of", step.target, fits))
        for key, value in overrides.items():
            check_free(f"step {name}, set", key, str(key), problems)
            _check_reference(f"step {name}, {key}", value, fits, problems)
        steps[step.name] = step
    return steps


def _axes(
    raw: dict[str, Any], steps: dict[str, Step], problems: list[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Range]]:
    axes, ranges = {}, {}
    for axis, given in raw.items():
        mapping = isinstance(given, dict) and all(isinstance(each, dict) for each in given.values())
        if mapping and given:
            axes[str(axis)] = {_label(label): overrides for label, overrides in given.items()}
            for label, overrides in axes[str(axis)].items():
                _check_overrides(f"axis {axis}, label {label}", overrides, steps, problems)
        elif mapping:
            problems.append(f"axis {axis} has no labels")
        elif isinstance(given, dict) and {each.name for each in fields(Range)} & set(given):
            ranges |= _range(str(axis), given, steps, problems)
        else:
            problems.append(f"axis {axis} must be {{label: {{step.key: value}}}}, not {given!r}")
    return axes, ranges


def _range(name: str, given: dict[str, Any], steps: dict[str, Step], problems: list[str]) -> dict[str, Range]:
    """The range by its name, or nothing and a problem."""
    if set(given) - {"log"} != {"key", "low", "high"}:
        problems.append(f"range {name} takes key, low, high and log, and needs all but log, not {given!r}")
        return {}
    check_key(f"range {name}", given["key"], steps, problems)
    return {name: Range(**given | {end: _number(given[end]) for end in ("low", "high")})}


def _check_overrides(where: str, overrides: dict[str, Any], steps: dict[str, Step], problems: list[str]) -> None:
    for key, value in overrides.items():
        step, _, rest = str(key).partition(".")
        check_key(where, key, steps, problems)
        _check_reference(f"{where}, {key}", value, _fits_before(step, steps), problems)
        if rest == "fit" and step in steps and steps[step].command == "test":
            target = steps[step].target
            problems.append(
                f"{where}, {key}: {step} tests what {target} has fitted, with its settings: set {target}.fit"
            )
        elif rest == "fit":
            _check_file(f"{where}, {key}", value, problems)


def _check_file(where: str, given: Any, problems: list[str]) -> None:
    if not isinstance(given, str) or not given:
        problems.append(f"{where} must be an experiment's file, not {given!r}")


def _fits_before(step: str, steps: dict[str, Step]) -> list[str]:
    names = list(steps)
    return [name for name in names[: names.index(step) if step in names else None] if steps[name].command == "fit"]


def _check_reference(where: str, value: Any, steps: Any, problems: list[str]) -> None:
    for name in [text[1:] for text in sorted(strings(value)) if text.startswith(REFERENCE) and text[1:] not in steps]:
        problems.append(unknown(f"{where}: the run of", name, steps))


def _number(given: Any) -> Any:
    """YAML takes 1e-4 for a word, unlike 1.0e-4."""
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _list(raw: dict[str, Any], key: str, of: type, problems: list[str]) -> list[Any]:
    given = [] if raw.get(key) is None else raw[key]
    if isinstance(given, list) and all(isinstance(each, of) for each in given):
        return given
    kinds = {str: " of strings", list: " of lists"}
    problems.append(f"{key} must be a list{kinds.get(of, '')}, not {given!r}")
    return []


def _commands(raw: dict[str, Any], problems: list[str]) -> list[str]:
    lines = _list(raw, "prepare", str, problems)
    for line in lines:
        try:
            shlex.split(line)
        except ValueError as error:
            problems.append(f"prepare: {line!r} is no command ({error})")
    return lines


def _mapping(raw: dict[str, Any], key: str, problems: list[str], where: str = "") -> dict[str, Any]:
    given = {} if raw.get(key) is None else raw[key]
    if isinstance(given, dict):
        return given
    problems.append(f"{where}{key} must be a mapping, not {given!r}")
    return {}


def _labels(given: Any) -> dict[str, str]:
    return {str(axis): _label(label) for axis, label in given.items()} if isinstance(given, dict) else {"": str(given)}


def _label(label: Any) -> str:
    """YAML reads a bare on, off, yes, no as a boolean: it is the word again here."""
    return {True: "on", False: "off"}[label] if isinstance(label, bool) else str(label)
