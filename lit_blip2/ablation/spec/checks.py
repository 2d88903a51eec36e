"""What can be wrong with an ablation file whose parts are laid out well: between them, and in their names and numbers.

Each check adds what it finds to a list of problems, which are told all at once.
"""

import difflib
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_blip2.ablation.spec.grid import Grid, Range, Step

LONGEST_NAME = 180  # a file name holds 255 bytes, and more is put before and behind
WIDEST_NUMBER = "-1.23457e-100"  # that a trial is called by
LARGEST_SEED = 2**32 - 1  # numpy takes no larger one
RESERVED_AXES = {"cell", "seed", "state"}  # columns of the tables beside the axes
RESERVED_STEPS = {"final"}  # TensorBoard's tags of what a cell ended with
SEED_KEYS = {"seed_everything", "data.seed", "data.init_args.seed"}


def unknown(what: str, name: str, known: Any) -> str:
    """That there is no such name, which one may have been meant, and which there are."""
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f", did you mean {close[0]!r}" if close else ""
    return f"{what} {name!r} is not known{hint}; there are {', '.join(sorted(known)) or 'none'}"


def check_key(where: str, key: str, steps: dict[str, "Step"], problems: list[str]) -> None:
    """A step's key, `stage1.model.net.itc`."""
    owner, _, rest = str(key).partition(".")
    if owner not in steps or not rest:
        problems.append(unknown(f"{where}: {key!r} must begin with a step:", owner, steps))
    check_free(where, key, rest, problems)


def check_free(where: str, key: str, rest: str, problems: list[str]) -> None:
    """That the sweep does not set the key itself; rest: the key without its step."""
    if rest in SEED_KEYS:
        problems.append(f"{where}: {key} would be overwritten; seeds: is what varies the seed")
    if f"{rest}.".startswith("trainer.logger."):
        problems.append(f"{where}: {key} would be overwritten; every run of a sweep logs into its own folder")


def check(grid: "Grid", problems: list[str]) -> None:
    """All that can be said of a grid or a search."""
    if grid.direction not in ("maximize", "minimize"):
        problems.append(f"direction={grid.direction!r} must be maximize or minimize")
    if twice := sorted({metric for metric in grid.metrics if grid.metrics.count(metric) > 1}):
        problems.append(f"metrics: {', '.join(twice)} stands there twice")
    _check_seeds(grid, problems)
    _check_words(grid, problems)
    if grid.ranges:
        _check_search(grid, problems)
    else:
        _check_cells(grid, problems)


def _check_seeds(grid: "Grid", problems: list[str]) -> None:
    whole = all(type(seed) is int and 0 <= seed <= LARGEST_SEED for seed in grid.seeds)
    if not whole or len(set(grid.seeds)) < len(grid.seeds):
        problems.append(f"seeds={grid.seeds} must be different whole numbers from 0 to {LARGEST_SEED}")


def _check_words(grid: "Grid", problems: list[str]) -> None:
    axes = {*grid.axes, *grid.ranges}
    for word in sorted({*grid.steps, *axes, *(label for labels in grid.axes.values() for label in labels)}):
        if not re.fullmatch(r"[\w.+-]+", word, re.ASCII) or word.startswith("."):
            problems.append(f"{word!r} names files: use letters, digits and _ . + - in steps, axes and labels")
    for what, words, reserved in (("axis", axes, RESERVED_AXES), ("step", grid.steps, RESERVED_STEPS)):
        problems += [f"{what} {word!r}: the tables have this word already" for word in sorted(reserved & set(words))]
    widest = ",".join(f"{name}={WIDEST_NUMBER}" for name in grid.ranges)
    names = [*grid.steps, *([widest] if grid.ranges else [cell.name for cell in _all_cells(grid)])]
    if longest := [name for name in names if len(name) > LONGEST_NAME]:
        problems.append(
            f"{longest[0]!r} names a file: steps, and axes with their labels, must have at most {LONGEST_NAME} letters"
        )


def _all_cells(grid: "Grid") -> list[Any]:
    return grid.cells() if set(grid.control) >= set(grid.axes) or grid.vary != "one" else []


def _check_cells(grid: "Grid", problems: list[str]) -> None:
    """What is peculiar to a grid."""
    if grid.vary not in ("product", "one"):
        problems.append(f"vary={grid.vary!r} must be product or one")
    choices = [f"{axis}={label}" for axis in grid.axes for label in grid.axes[axis]]
    named = [("without", each) for each in grid.without] + [("compare", each) for pair in grid.compare for each in pair]
    for what, labels in [("control", grid.control), *named]:
        for axis, label in labels.items():
            if label not in grid.axes.get(axis, {}):
                problems.append(unknown(what, f"{axis}={label}", choices))
    if missing := [axis for axis in grid.axes if axis not in grid.control]:
        problems.append(f"control has no label for {', '.join(missing)}")
    if problems:
        return
    _check_settings(grid, problems)
    _check_overlaps(grid, problems)


def _check_settings(grid: "Grid", problems: list[str]) -> None:
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


def _check_overlaps(grid: "Grid", problems: list[str]) -> None:
    """Two axes that set one key: where both do, the first one's value would be lost in silence.

    A null may stand over a value: it takes away what the other axis gives. With `vary: one` a varied label may stand
    over the control's.
    """
    settings = [cell.labels for cell in grid.cells() if cell.seed == grid.seeds[0]]
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
        problems += [
            f"axes {first} and {second} both set {key}, and one value would be lost: let one axis set it, or leave "
            "the cells where both do out by `without`"
            for key in sorted(lost)
        ]


def _check_search(grid: "Grid", problems: list[str]) -> None:
    """What is peculiar to a search."""
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
        _check_range(name, each, problems)
    for (name, each), (other, its) in itertools.combinations(grid.ranges.items(), 2):
        if each.key == its.key:
            problems.append(f"ranges {name} and {other} both set {each.key}, and one value would be lost")


def _check_range(name: str, given: "Range", problems: list[str]) -> None:
    numbers = all(type(end) in (int, float) and abs(end) < math.inf for end in (given.low, given.high))
    if not numbers or not given.low < given.high or (given.log and given.low <= 0):
        problems.append(
            f"range {name}: low={given.low}, high={given.high} must be finite numbers, low < high, low > 0 for log"
        )
    if type(given.log) is not bool:
        problems.append(f"range {name}: log={given.log!r} must be true or false")
