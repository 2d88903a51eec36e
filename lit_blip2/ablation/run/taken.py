"""Takes cells that need not be run: those whose records are kept beside the ablation, as `report --out` writes them.

A cell is taken if each of its steps has the same key as in this plan (settings, named files, code that it uses, and
steps before it), the libraries have the same versions, and all else that the step read is unchanged. A cell that has
failed, or lacks a metric, is run again.
"""

from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.kept import copy_run
from lit_blip2.ablation.run.cells import cell_metrics, lacking
from lit_blip2.ablation.run.fingerprint import paths
from lit_blip2.ablation.run.provenance import other_versions
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.reads import has_changed
from lit_blip2.ablation.run.sharing import step_key
from lit_blip2.ablation.run.tensorboard import write_cell
from lit_blip2.ablation.schema import DONE, Cell, Done, Metrics, Plan, Record, StepRun, is_of
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.links import check_links
from lit_blip2.terminal import printable


def kept_beside(grid: Grid, ablation: str) -> Folder:
    """The folder that holds what is kept of this grid, beside the ablation's file."""
    return Folder(Path(ablation).parent / "results" / grid.name)


class Kept(NamedTuple):
    """What is kept for a plan. records: of cells that can be taken. runs: for each of these cells, the plan's name of a
    step run -> the kept name. others: why cells cannot be taken -> these cells."""

    records: dict[str, Record]
    runs: dict[str, dict[str, str]]
    others: dict[str, list[str]]


def look(plan: Plan, kept: Folder, left_out: Container[str] = ()) -> Kept:
    """Which of a plan's cells can be taken from `kept`; none if there is no such folder. Raises SweepError for a
    damaged file, DataError if a link leads out of the folder."""
    found = Kept({}, {}, {})
    if not kept.root.is_dir():
        return found
    check_links(kept.root)
    known = read(kept.plan, Plan)
    for cell in [cell for cell in plan.cells if cell.name not in left_out]:
        record = read(kept.cell(cell.name), Record)
        if record is None or record.state != DONE:
            continue
        runs = _runs(plan, cell, known)
        metrics, reason = {}, _why_not(plan, cell, known, record, runs, kept)
        if not reason:
            metrics = cell_metrics(cell, {name: _metrics(kept, runs[name]) for name in cell.steps})
            reason = _odd(cell, record, metrics)
        if reason:
            found.others.setdefault(reason, []).append(cell.name)
            continue
        keys = {name: plan.steps[name].key for name in cell.steps}
        reached = {name: record.reached[runs[name]] for name in cell.steps if runs[name] in record.reached}
        update = {"metrics": metrics, "keys": keys, "reached": reached}
        found.records[cell.name] = record.model_copy(update=update)
        found.runs[cell.name] = runs
    return found


def take(plan: Plan, grid: Grid, kept: Folder, folder: Folder, queue: Queue) -> list[str]:
    """Put what can be taken into the sweep's folder and its queue, for cells that the queue does not know yet. Returns
    the lines that say so."""
    found = look(plan, kept, queue.states())
    cells = {cell.name: cell for cell in plan.cells}
    for name, record in found.records.items():
        for new, old in found.runs[name].items():
            if not folder.done(new).exists():
                copy_run(kept, old, folder, new, plan.metrics)
        write(folder.cell(name), record)
        write_cell(folder, grid, cells[name], DONE, record.metrics)
        queue.add_done(cells[name], grid, record.metrics.get(grid.metrics[0]))
    return told(plan, kept, found)


def told(plan: Plan, kept: Folder, found: Kept) -> list[str]:
    """Lines that say what is taken, and what is not and why."""
    taken = f"{len(found.records)} of {len(plan.cells)} cells are taken from {kept.root}"
    return [taken] * bool(found.records) + [
        printable(f"{len(names)} of {len(plan.cells)} cells are not taken from {kept.root} ({names[0]}): {reason}")
        for reason, names in found.others.items()
    ]


def _runs(plan: Plan, cell: Cell, known: Plan | None) -> dict[str, str]:
    """The plan's name of each of the cell's step runs -> the kept name for the same step."""
    same = [each for each in known.cells if each.name == cell.name] if known else []
    kept = {known.steps[name].step: name for each in same for name in each.steps if name in known.steps}
    return {name: kept[plan.steps[name].step] for name in cell.steps if plan.steps[name].step in kept}


def _why_not(
    plan: Plan, cell: Cell, known: Plan | None, record: Record, runs: dict[str, str], kept: Folder
) -> str | None:
    """Why a cell is not taken, None if it can be."""
    if known is None:
        return "no plan.json lies there, which holds the fingerprints of their steps"
    if other := other_versions(known.versions):
        return f"made with {', '.join(other)}"
    if len(runs) < len(cell.steps):
        return "made with other steps"
    for name in cell.steps:
        now, then = plan.steps[name], known.steps[runs[name]]
        if now.key != then.key:
            return f"made at commit {record.commit or known.commit} with other {_other(plan, now, known, then)}"
        done = read(kept.done(then.name), Done)
        if done is None or not done.key == record.keys.get(then.name) == then.key:
            return f"the record of {then.name} is missing, or of another plan"
        if changed := next((path for path, told in done.reads.items() if has_changed(path, told)), None):
            return f"{changed} has changed since {then.name} read it"
    return None


def _odd(cell: Cell, record: Record, metrics: dict[str, float | None]) -> str:
    """Why a record of the same steps is not sound; "" if it is."""
    if lacking(cell, metrics):
        return "a metric is missing"
    if not is_of(record, cell):
        return "its record is another cell's"
    other = [name for name in cell.metrics if record.metrics.get(name) != metrics.get(name)]
    return f"its record and its run's metrics.json do not agree on {other[0]}" if other else ""


def _other(plan: Plan, now: StepRun, known: Plan, then: StepRun) -> str:
    """In what two runs of a step differ, in words."""
    files = {path for path in plan.files | known.files if plan.files.get(path) != known.files.get(path)}
    named = sorted(files & {*paths(now.config), *paths(then.config)})
    parts = ["settings"] if step_key("", now.config, {}, {}, "") != step_key("", then.config, {}, {}, "") else []
    parts += ["code of lit_blip2"] if now.code != then.code else []
    parts += [f"contents of {', '.join(named)}"] if named else []
    return f"{' and '.join(parts) or 'steps before it'} in step {now.step}"


def _metrics(kept: Folder, name: str) -> dict[str, float | None]:
    ended = read(kept.metrics(name), Metrics)
    return ended.root if ended else {}
