"""Checks a grid whose parts are sound: how the parts fit each other, and their names and numbers."""

import itertools
import re
from collections.abc import Iterator

from lit_blip2.ablation.spec.expect import expect_problems
from lit_blip2.ablation.spec.grid import AXIS, Grid
from lit_blip2.ablation.spec.parsing import unknown
from lit_blip2.config import strings

LONGEST_NAME = 180  # a file name has at most 255 bytes, and prefixes and suffixes are added
WIDEST_NUMBER = "-1.23457e-100"  # in a trial's name
LARGEST_SEED = 2**32 - 1  # numpy takes no larger one
RESERVED_AXES = {"cell", "seed", "state"}  # other columns of the tables
RESERVED_STEPS = {"final"}  # prefix of TensorBoard's tags for what a cell ended with


def problems_of(grid: Grid) -> list[str]:
    """All problems of a grid or a search, one line each."""
    problems = [*_seeds(grid), *_words(grid), *_references(grid)]
    if twice := sorted({metric for metric in grid.metrics if grid.metrics.count(metric) > 1}):
        problems.append(f"metrics: {', '.join(twice)} stands there twice")
    if grid.ranges:
        return problems + list(_search(grid))
    problems += _labels(grid)
    return problems or [*_settings(grid), *_overlaps(grid)]


def _seeds(grid: Grid) -> Iterator[str]:
    if not all(0 <= seed <= LARGEST_SEED for seed in grid.seeds) or len(set(grid.seeds)) < len(grid.seeds):
        yield f"seeds={grid.seeds} must be different whole numbers from 0 to {LARGEST_SEED}"


def _words(grid: Grid) -> Iterator[str]:
    """Problems of words that name files or columns of tables."""
    axes = {*grid.axes, *grid.ranges}
    for word in sorted({*grid.steps, *axes, *(label for labels in grid.axes.values() for label in labels)}):
        if not re.fullmatch(r"[\w.+-]+", word, re.ASCII) or word.startswith("."):
            yield f"{word!r} names files: use letters, digits and _ . + - in steps, axes and labels"
    for what, words, reserved in (("axis", axes, RESERVED_AXES), ("step", grid.steps, RESERVED_STEPS)):
        yield from (f"{what} {word!r}: a report's column has this name" for word in sorted(reserved & set(words)))
    widest = ",".join(f"{name}={WIDEST_NUMBER}" for name in grid.ranges)
    sound = set(grid.control) >= set(grid.axes) or grid.vary != "one"
    names = [*grid.steps, *([widest] if grid.ranges else [point.name for point in grid.points()] if sound else [])]
    if longest := [name for name in names if len(name) > LONGEST_NAME]:
        yield f"{longest[0]!r} names a file: steps, axes with their labels must have at most {LONGEST_NAME} letters"


def _references(grid: Grid) -> Iterator[str]:
    """Settings that ask for the label of an axis that does not exist."""
    given = [each for labels in grid.axes.values() for each in labels.values()]
    asked = strings([*given, grid.settings, *(step.set for step in grid.steps.values())])
    for name in sorted(text.removeprefix(AXIS) for text in asked if text.startswith(AXIS)):
        if name not in grid.axes:
            yield unknown(f"{AXIS}{name}: axis", name, grid.axes)


def _labels(grid: Grid) -> Iterator[str]:
    """Labels that an axis or the control lacks."""
    yield from (f"axis {axis} has no labels" for axis, labels in grid.axes.items() if not labels)
    choices = [f"{axis}={label}" for axis in grid.axes for label in grid.axes[axis]]
    named = [("without", each) for each in grid.without] + [("compare", each) for pair in grid.compare for each in pair]
    named += [("expect", labels) for each in grid.expect.comparisons for labels in (each.better, each.than)]
    for what, labels in [("control", grid.control), *named]:
        for axis, label in labels.items():
            if label not in grid.axes.get(axis, {}):
                yield unknown(what, f"{axis}={label}", choices)
    if missing := [axis for axis in grid.axes if axis not in grid.control]:
        yield f"control has no label for {', '.join(missing)}"


def _settings(grid: Grid) -> Iterator[str]:
    """Settings that others are compared to and that are not among the cells."""
    settings = [point.labels for point in grid.points()]
    if grid.control not in settings:
        yield f"the control {grid.control} is not among the cells: `without` leaves it out"
    for pair in grid.compare:
        if len(pair) != 2 or pair[0] == pair[1]:
            yield f"compare: {pair} must be two different settings"
        for each in pair:
            if (labels := grid.setting(each)) not in settings:
                yield f"compare: {labels} is not among the cells"
    yield from expect_problems(grid.expected, grid.metrics, settings)


def _overlaps(grid: Grid) -> Iterator[str]:
    """Pairs of axes that set the same key in one cell: the first one's value would be lost in silence.

    A null may replace a value: it takes away what the other axis gives. With `vary: one` a varied label may replace the
    control's.
    """
    settings = [point.labels for point in grid.points() if point.seed == grid.seeds[0]]
    for first, second in itertools.combinations(grid.axes, 2):
        meet = {(each[first], each[second]) for each in settings}
        if grid.vary == "one":
            meet = {(label, other) for label, other in meet if label != grid.control[first]}
        lost = {
            key
            for label, other in meet
            for key, value in grid.axes[second][other].items()
            if value is not None and key in grid.axes[first][label]
        }
        for key in sorted(lost):
            yield (
                f"axes {first} and {second} both set {key}, and one value would be lost: let one axis set it, or leave "
                "the cells where both do out by `without`"
            )


def _search(grid: Grid) -> Iterator[str]:
    """Problems that only a search can have."""
    if grid.axes:
        yield f"axes {', '.join(grid.axes)} have labels, {', '.join(grid.ranges)} ranges: a search has ranges only"
    if grid.expect.comparisons:
        yield "expect: comparisons do nothing in a search: they are for axes with labels"
    if tests := [name for name, step in grid.steps.items() if step.command == "test"]:
        yield f"steps {', '.join(tests)} test: a search is guided by metrics of validations, leave tests to a grid"
    if grid.trials < 1:
        yield f"trials={grid.trials} must be at least 1 in a search"
    if len(grid.seeds) != 1:
        yield f"seeds={grid.seeds}: a search tries a setting once; confirm what it finds in a grid of fresh seeds"
    for (name, each), (other, its) in itertools.combinations(grid.ranges.items(), 2):
        if each.key == its.key:
            yield f"ranges {name} and {other} both set {each.key}, and one value would be lost"
