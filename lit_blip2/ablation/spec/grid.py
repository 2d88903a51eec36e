"""What a sweep runs: a chain of steps, axes of labelled settings (or ranges), seeds, metrics, the control cell.

read.py makes a grid from an ablation's file at a scale, and says what such a file holds. Each part of a grid is checked
here by itself; checks.py compares the parts.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lit_blip2.ablation.spec.expect import Expect, Expectations, Expected
from lit_blip2.ablation.spec.fill import fill
from lit_blip2.ablation.spec.step import Step, chain_problems, settings_problems
from lit_blip2.ablation.spec.values import Command, Labels, Number, Settings, Word, smaller_is_better
from lit_blip2.contents import parsed_yaml

AXIS = "axis."  # "axis.tokens" stands for the label that a cell has on the axis tokens


class Range(BaseModel):
    """An axis of a search: a number from low to high for one key."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    key: StrictStr
    low: Number
    high: Number
    log: StrictBool = False

    @model_validator(mode="after")
    def _check_ends(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low={self.low}, high={self.high} must be low < high, and low > 0 for log")
        return self


@dataclass(frozen=True)
class Point:
    """One setting and one seed: a cell, once its steps are planned."""

    labels: dict[str, str]
    seed: int

    @property
    def name(self) -> str:
        """Such as `itc=on,itm=off,seed=0`."""
        return run_name(self.labels, self.seed)


class Grid(BaseModel):
    """An ablation at one scale. Cells vary the seed fastest, so that workers seldom want the same step at once.

    settings: for several steps; they override those of the steps themselves, and those of the labels override them.
    left_out: what the scale lacks and why, a line each.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    steps: dict[Word, Step]
    axes: dict[Word, dict[Word, Settings]]
    metrics: list[StrictStr]
    seeds: list[StrictInt]
    control: Labels = {}
    question: StrictStr = ""
    expect: Expect = Expectations()
    prepare: list[Command] = []
    without: list[Labels] = []
    compare: list[list[Labels]] = []
    vary: Literal["product", "one"] = "product"
    ranges: dict[Word, Range] = {}
    trials: StrictInt = 0
    direction: Literal["maximize", "minimize"] | None = None
    slurm: dict[str, Any] = {}
    settings: Settings = {}
    left_out: list[str] = []

    @field_validator("steps")
    @classmethod
    def _check_steps(cls, steps: dict[str, Step]) -> dict[str, Step]:
        return _sound(steps, chain_problems(steps))

    @field_validator("axes")
    @classmethod
    def _check_axes(cls, axes: dict[str, dict[str, Settings]], info: ValidationInfo) -> dict[str, Any]:
        named = {f"axis {axis}, label {label}": each for axis, of in axes.items() for label, each in of.items()}
        return _sound(axes, _of_settings(named, info))

    @field_validator("ranges")
    @classmethod
    def _check_ranges(cls, ranges: dict[str, Range], info: ValidationInfo) -> dict[str, Range]:
        return _sound(ranges, _of_settings({f"range {name}": {r.key: r.low} for name, r in ranges.items()}, info))

    @field_validator("settings")
    @classmethod
    def _check_settings(cls, settings: Settings, info: ValidationInfo) -> Settings:
        return _sound(settings, _of_settings({"set": settings}, info, varies=False))

    @model_validator(mode="after")
    def _fill(self) -> "Grid":
        self.control = self.control or {axis: next(iter(labels), "") for axis, labels in self.axes.items()}
        smaller = bool(self.metrics) and smaller_is_better(self.metrics[0])
        self.direction = self.direction or ("minimize" if smaller else "maximize")
        return self

    def points(self) -> list[Point]:
        """Every cell's point, in order: the full product, or the control and what differs from it in one axis."""
        settings = [dict(zip(self.axes, labels)) for labels in itertools.product(*self.axes.values())]
        if self.vary == "one":
            settings = [each for each in settings if sum(each[a] != self.control[a] for a in self.axes) <= 1]
        kept = [each for each in settings if not any(out.items() <= each.items() for out in self.without)]
        return [Point(labels, seed) for labels in kept for seed in self.seeds]

    def setting(self, labels: dict[str, str]) -> dict[str, str]:
        """All labels, in the axes' order; those that are not given are the control's."""
        return {axis: (self.control | labels)[axis] for axis in self.axes}

    @property
    def expected(self) -> list[Expected]:
        """The expected comparisons, with all labels filled in."""
        return [
            each.model_copy(update={side: self.setting(getattr(each, side)) for side in ("better", "than")})
            for each in self.expect.comparisons
        ]

    def arguments(self, labels: dict[str, str], step: str, values: Settings | None = None) -> list[str]:
        """What a person would type after `fit` or `test` for this step of a setting. values: of a search's ranges."""
        one, given = self.steps[step], self._given(labels, step, values or {})
        fit, behind = given.pop("fit", one.fit), given.pop("with", one.behind)
        begin = self.arguments(labels, one.test, values) if one.test else ["--config", fit]
        files = ["--config", behind] if behind else []
        options = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
        return [*begin, *files, *(f"--{key}={value}" for key, value in options.items())]

    def _given(self, labels: dict[str, str], step: str, values: Settings) -> dict[str, Any]:
        """Keys of one step: its own settings, overridden by the grid's, then the labels', then the values."""
        found = dict(self.steps[step].set)
        for settings in (self.settings, *(self.axes[axis][label] for axis, label in labels.items()), values):
            found |= {
                key.removeprefix(f"{step}."): each for key, each in settings.items() if key.startswith(f"{step}.")
            }
        return fill(found, {axis: parsed_yaml(label, f"axis {axis}") for axis, label in labels.items()}, AXIS)


def _sound(value: Any, problems: Iterable[str]) -> Any:
    """The value, if there are no problems; else raises ValueError with them."""
    if lines := list(problems):
        raise ValueError("\n".join(lines))
    return value


def _of_settings(named: dict[str, Settings], info: ValidationInfo, varies: bool = True) -> Iterator[str]:
    """The problems of settings; none if the steps have problems of their own. named: what gives settings -> settings.
    varies: see `settings_problems`."""
    if "steps" in info.data:
        for where, each in named.items():
            yield from settings_problems(where, each, info.data["steps"], varies)


def run_name(labels: dict[str, str], seed: int) -> str:
    """The name of a setting at a seed: `itc=on,itm=off,seed=0`."""
    return ",".join([*(f"{axis}={label}" for axis, label in labels.items()), f"seed={seed}"])
