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
high: 1.0e-2, log: true}`, `trials: 40`, `direction: maximize` of the first metric; whole numbers stay whole. Optuna's
TPE chooses, trials that fall behind the median at a validation are pruned.
"""

import difflib
import itertools
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from lit_blip2.ablation.fingerprint import strings

LONGEST_NAME = 180  # a file name holds 255 bytes, and more is put before and behind
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
    low: float
    high: float
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
    """Refuses a key that stands twice in one mapping, where YAML itself would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
    problems = [_unknown("key", str(key), allowed) for key in raw if key not in allowed]
    problems += [f"{key} is missing" for key in ("steps", "axes", "metrics", "seeds") if not raw.get(key)]
    steps = _steps(raw.get("steps") or {}, problems)
    axes, ranges = _axes(raw.get("axes") or {}, steps, problems)
    text = {key: raw[key] for key in ("question", "expect", "vary", "direction", "trials", "slurm") if key in raw}
    grid = Grid(
        name=str(raw.get("name", name)),
        steps=steps,
        axes=axes,
        ranges=ranges,
        metrics=_strings(raw, "metrics", problems),
        control=_labels(raw.get("control") or {axis: next(iter(labels)) for axis, labels in axes.items()}),
        seeds=raw.get("seeds") or [],
        prepare=_strings(raw, "prepare", problems),
        without=[_labels(each) for each in raw.get("without") or []],
        compare=[[_labels(each) for each in pair] for pair in raw.get("compare") or []],
        **text,
    )
    if not problems:
        _check(grid, problems)
    return grid, problems


def _steps(raw: dict[str, Any], problems: list[str]) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for name, given in raw.items():
        commands = [command for command in ("fit", "test") if isinstance(given, dict) and command in given]
        if len(commands) != 1 or set(given) - {"fit", "test", "set"}:
            problems.append(
                f"step {name} must be {{fit: FILE, set: {{...}}}} or {{test: STEP, set: {{...}}}}, not {given!r}"
            )
            continue
        command, overrides = commands[0], given.get("set") or {}
        step = Step(name, command, str(given[command]), overrides)
        fits = [each.name for each in steps.values() if each.command == "fit"]
        if command == "test" and step.target not in fits:
            problems.append(_unknown(f"step {name}: test of", step.target, fits))
        for key, value in overrides.items():
            _check_reference(f"step {name}, {key}", value, fits, problems)
        steps[name] = step
    return steps


def _axes(
    raw: dict[str, Any], steps: dict[str, Step], problems: list[str]
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, Range]]:
    axes, ranges = {}, {}
    for axis, given in raw.items():
        if isinstance(given, dict) and {"low", "high"} <= set(given):
            if set(given) - {each.name for each in fields(Range)} or "key" not in given:
                problems.append(f"range {axis} takes key, low, high and log, and needs a key, not {given!r}")
                continue
            ranges[str(axis)] = Range(**given | {end: _number(given[end]) for end in ("low", "high")})
            _check_owner(f"range {axis}", given["key"], steps, problems)
            continue
        if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
            problems.append(f"axis {axis} must be {{label: {{step.key: value}}}}, not {given!r}")
            continue
        axes[str(axis)] = {_label(label): overrides for label, overrides in given.items()}
        for label, overrides in axes[str(axis)].items():
            for key, value in overrides.items():
                _check_owner(f"axis {axis}, label {label}", key, steps, problems)
                earlier = _fits_before(str(key).partition(".")[0], steps)
                _check_reference(f"axis {axis}, label {label}, {key}", value, earlier, problems)
    return axes, ranges


def _fits_before(step: str, steps: dict[str, Step]) -> list[str]:
    names = list(steps)
    return [name for name in names[: names.index(step) if step in names else None] if steps[name].command == "fit"]


def _check(grid: Grid, problems: list[str]) -> None:
    """What can be wrong between the parts."""
    if grid.vary not in ("product", "one"):
        problems.append(f"vary={grid.vary!r} must be product or one")
    if grid.direction not in ("maximize", "minimize"):
        problems.append(f"direction={grid.direction!r} must be maximize or minimize")
    if not all(type(seed) is int and seed >= 0 for seed in grid.seeds) or len(set(grid.seeds)) < len(grid.seeds):
        problems.append(f"seeds={grid.seeds} must be different whole numbers from 0")
    if grid.ranges:
        _check_search(grid, problems)
        return
    named = [("without", each) for each in grid.without] + [("compare", each) for pair in grid.compare for each in pair]
    for what, labels in [("control", grid.control), *named]:
        for axis, label in labels.items():
            if label not in grid.axes.get(axis, {}):
                problems.append(
                    _unknown(what, f"{axis}={label}", [f"{a}={b}" for a in grid.axes for b in grid.axes[a]])
                )
    if missing := [axis for axis in grid.axes if axis not in grid.control]:
        problems.append(f"control has no label for {', '.join(missing)}")
    for word in {*grid.steps, *grid.axes, *(label for labels in grid.axes.values() for label in labels)}:
        if not re.fullmatch(r"[\w.+-]+", word, re.ASCII) or word.startswith("."):
            problems.append(f"{word!r} names files: use letters, digits and _ . + - in steps, axes and labels")
    if longest := [cell.name for cell in grid.cells() if len(cell.name) > LONGEST_NAME]:
        problems.append(
            f"the cell {longest[0]!r} names a file: its axes and labels must have at most {LONGEST_NAME} letters"
        )
    if not problems:
        _check_cells(grid, problems)


def _check_cells(grid: Grid, problems: list[str]) -> None:
    """Whether the settings that others are held against are run at all."""
    settings = [cell.labels for cell in grid.cells()]
    if grid.control not in settings:
        problems.append(f"the control {grid.control} is not among the cells: `without` leaves it out")
    for pair in grid.compare:
        if len(pair) != 2 or pair[0] == pair[1]:
            problems.append(f"compare: {pair} must be two different settings")
        for each in pair:
            if (labels := grid.control | each) not in settings:
                problems.append(f"compare: {labels} is not among the cells")


def _check_search(grid: Grid, problems: list[str]) -> None:
    if grid.axes:
        problems.append(
            f"axes {', '.join(grid.axes)} have labels, {', '.join(grid.ranges)} ranges: a search has ranges only"
        )
    if tests := [step.name for step in grid.steps.values() if step.command == "test"]:
        problems.append(
            f"steps {', '.join(tests)} test: a search is guided by validation figures, leave tests to a grid"
        )
    if type(grid.trials) is not int or grid.trials < 1:
        problems.append(f"trials={grid.trials} must be at least 1 in a search")
    if len(grid.seeds) != 1:
        problems.append(
            f"seeds={grid.seeds}: a search tries a setting once; confirm what it finds in a grid of fresh seeds"
        )
    for name, each in grid.ranges.items():
        numbers = all(isinstance(x, int | float) for x in (each.low, each.high))
        if not numbers or not each.low < each.high or (each.log and each.low <= 0):
            problems.append(
                f"range {name}: low={each.low}, high={each.high} must be numbers, low < high, low > 0 for log"
            )


def _check_owner(where: str, key: str, steps: dict[str, Step], problems: list[str]) -> None:
    owner, _, rest = str(key).partition(".")
    if owner not in steps or not rest:
        problems.append(_unknown(f"{where}: {key!r} must begin with a step:", owner, steps))


def _check_reference(where: str, value: Any, steps: Any, problems: list[str]) -> None:
    for name in [text[1:] for text in sorted(strings(value)) if text.startswith(REFERENCE) and text[1:] not in steps]:
        problems.append(_unknown(f"{where}: the run of", name, steps))


def _unknown(what: str, name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f", did you mean {close[0]!r}" if close else ""
    return f"{what} {name!r} is not known{hint}; there are {', '.join(sorted(known)) or 'none'}"


def _number(given: Any) -> Any:
    """YAML takes 1e-4 for a word, unlike 1.0e-4."""
    try:
        return float(given) if isinstance(given, str) else given
    except ValueError:
        return given


def _strings(raw: dict[str, Any], key: str, problems: list[str]) -> list[str]:
    given = raw.get(key) or []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        problems.append(f"{key} must be a list of strings, not {given!r}")
        return []
    return given


def _labels(given: Any) -> dict[str, str]:
    return {str(axis): _label(label) for axis, label in given.items()} if isinstance(given, dict) else {"": str(given)}


def _label(label: Any) -> str:
    """YAML reads a bare on, off, yes, no as a boolean: it is the word again here."""
    return {True: "on", False: "off"}[label] if isinstance(label, bool) else str(label)
