"""Warnings that come before any table: runs that made other steps than planned, and metrics of an earlier step."""

from collections.abc import Iterable
from typing import NamedTuple

from lit_blip2.ablation.reached import parents_read
from lit_blip2.ablation.report.markdown import code
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import Reached


class Warned(NamedTuple):
    """what: what is wrong with the runs. runs: in Markdown, each with its steps. why: the cause, or the way out."""

    what: str
    runs: list[str]
    why: str

    @property
    def short(self) -> str:
        """In Markdown, for a table of many sweeps."""
        first, number = self.runs[0], len(self.runs)
        return f"**{self.what}:** {first}" + (f" and {number - 1} more" if number > 1 else "")


def warnings_of(sweep: Sweep) -> list[Warned]:
    """The warnings that apply."""
    trained = _trained(sweep)
    found = [
        Warned(
            "Fewer steps than planned",
            [_of(name, each.made, each.planned) for name, each in trained if _below(each.made, each.planned)],
            "A limit such as max_time, early stopping or a callback has ended these trainings.",
        ),
        Warned(
            "More steps than planned",
            [_of(name, each.made, each.planned) for name, each in trained if _below(each.planned, each.made)],
            "Somebody has gone on with these trainings beyond the sweep.",
        ),
        Warned(
            "Metrics of an earlier step than the last",
            [_at(name, each.measured, each.made) for name, each in trained if _below(each.measured, each.made)],
            "These trainings went on after that validation, as where val_check_interval does not divide their steps.",
        ),
        Warned(
            "Made of an earlier step of another run",
            [*_older_runs(sweep), *_older_cells(sweep)],
            "That run has gone on since. The same sweep, started again, makes anew what stands on it.",
        ),
    ]
    return [each._replace(runs=list(dict.fromkeys(each.runs))) for each in found if each.runs]


def _trained(sweep: Sweep) -> list[tuple[str, Reached]]:
    """How far each training came, from the cells' records, else from the run itself."""
    told = [(name, each) for cell in sweep.cells for name, each in sweep.told(cell).items()]
    known = {name for name, _ in told}
    seen = [(name, each) for name, each in sweep.reached.items() if name not in known]
    return [(name, each) for name, each in [*told, *seen] if not _is_test(sweep, name)]


def _older_runs(sweep: Sweep) -> Iterable[str]:
    """Runs that read another run at a step at which it no longer is."""
    for name, done in sweep.done.items():
        for parent, then in parents_read(sweep.plan.steps[name], done, sweep.ended_with).items():
            now = sweep.done[parent].steps if parent in sweep.done else None
            if now not in (None, then):
                yield _since(name, then, parent, now)


def _older_cells(sweep: Sweep) -> Iterable[str]:
    """Cells whose record gives another step of a run than the run has now."""
    for cell in sweep.cells:
        for name, then in sweep.told(cell).items():
            now = sweep.reached.get(name)
            if now and now.made != then.made and not _is_test(sweep, name):
                yield _since(f"cell {cell.name}", then.made, name, now.made)


def _is_test(sweep: Sweep, name: str) -> bool:
    """Whether a run tests another one, whose own steps are reported. A search has no tests."""
    return name in sweep.plan.steps and sweep.plan.steps[name].command == "test"


def _since(name: str, then: int, parent: str, now: int) -> str:
    return f"{code(name)} (step {then:,} of {code(parent)}, which is at {now:,})"


def _of(name: str, one: int, two: int) -> str:
    return f"{code(name)} ({one:,} of {two:,})"


def _at(name: str, one: int, two: int) -> str:
    return f"{code(name)} (step {one:,} of {two:,})"


def _below(one: int | None, two: int | None) -> bool:
    return None not in (one, two) and one < two
