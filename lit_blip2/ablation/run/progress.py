"""What a person sees of a sweep: the plan before it starts, a live table of cells, the summary at its end."""

import time
from collections import Counter
from collections.abc import Callable

from optuna.trial import TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from lit_blip2.ablation.run.folder import Folder, is_locked, read_json
from lit_blip2.ablation.run.plan import Plan, PlannedCell
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.spec.grid import Grid

REFRESH_SECONDS = 1.0
MOST_ROWS = 24
WORDS = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "pruned",
}
STYLES = {"done": "green", "failed": "red", "running": "cyan", "pruned": "yellow"}


def plan_table(grid: Grid, plan: Plan) -> Table:
    """Every cell with its step runs; how many cells share a run stands behind it, what is run before all below."""
    uses = plan.uses()
    total = sum(len(cell.steps) for cell in plan.cells)
    table = Table(title=f"{grid.name}: {len(plan.cells)} cells, {total} steps, of which {len(plan.steps)} are run")
    if grid.prepare:
        table.caption = "first, if not done: " + "; ".join(f"python -m lit_blip2 {line}" for line in grid.prepare)
    for head in ("cell", "steps (x cells that share one)", "cannot have"):
        table.add_column(head, overflow="fold")
    for cell in plan.cells:
        steps = [f"{name} x{uses[name]}" if uses[name] > 1 else name for name in cell.steps]
        lacking = [metric for metric, step in cell.metrics.items() if step is None]
        table.add_row(cell.name, "\n".join(steps), "\n".join(lacking))
    return table


class Progress:
    """The live table; where there is no terminal, a line for each start and end of a cell."""

    def __init__(self, grid: Grid, plan: Plan, queue: Queue, folder: Folder, workers: int, console: Console):
        self.grid, self.plan, self.queue, self.folder = grid, plan, queue, folder
        self.workers, self.console = workers, console

    def tell(self, line: str) -> None:
        if not self.console.is_terminal:
            self.console.print(f"{time.strftime('%H:%M:%S')} {line}", highlight=False, markup=False, soft_wrap=True)

    def show_until(self, finished: Callable[[], bool]) -> None:
        if not self.console.is_terminal:
            while not finished():
                time.sleep(REFRESH_SECONDS / 5)
            return
        with Live(console=self.console, auto_refresh=False) as live:
            while not finished():
                live.update(self.table(), refresh=True)
                time.sleep(REFRESH_SECONDS)
            live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The cells, those that run first; what does not fit is counted."""
        states = {cell: WORDS[state] for cell, state in self.queue.states().items()}
        counts = Counter(states.values())
        title = ", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word])
        table = Table(title=f"{self.grid.name}: {title}; {self.time_left()}")
        for head in ("cell", "state", "steps"):
            table.add_column(head, overflow="fold")
        order = ("running", "failed", "waiting", "pruned", "done")
        cells = sorted(states, key=lambda cell: order.index(states[cell]))
        planned = {cell.name: cell for cell in self.plan.cells}
        for cell in cells[:MOST_ROWS]:
            style = STYLES.get(states[cell], "default")
            table.add_row(cell, f"[{style}]{states[cell]}[/]", self._steps(planned.get(cell)))
        if len(cells) > MOST_ROWS:
            table.add_row(f"and {len(cells) - MOST_ROWS} more", "", "")
        return table

    def _steps(self, cell: PlannedCell | None) -> str:
        """The cell's steps, coloured by how far they are; a search's trials have none that are planned."""
        words = []
        for name in cell.steps if cell else []:
            step = self.plan.steps[name].step
            if self.folder.done(name).exists():
                words.append(f"[green]{step}[/]")
            elif self.folder.failed(name).exists():
                words.append(f"[red]{step}[/]")
            else:
                words.append(f"[cyan]{step} ...[/]" if is_locked(self.folder.lock(name)) else f"[dim]{step}[/]")
        return " ".join(words)

    def time_left(self) -> str:
        """From the mean seconds of the steps that are done, spread over this command's workers."""
        if self.grid.ranges:
            return f"{self.grid.trials} trials in all"
        seconds: dict[str, list[float]] = {}
        undone = Counter()
        for name, run in self.plan.steps.items():
            if done := read_json(self.folder.done(name)):
                seconds.setdefault(run.step, []).append(done["seconds"])
            elif not self.folder.failed(name).exists():
                undone[run.step] += 1
        if unknown := [step for step in undone if step not in seconds]:
            return f"time left unknown before a first {unknown[0]} is done"
        left = sum(n * sum(seconds[step]) / len(seconds[step]) for step, n in undone.items()) / self.workers
        return f"about {left / 60:.0f} min left"

    def finish(self) -> int:
        """Print what became of the cells, and where to read on; the exit status."""
        states = {cell: WORDS[state] for cell, state in self.queue.states().items()}
        for cell in [cell for cell, state in states.items() if state == "failed"]:
            error = (read_json(self.folder.cell(cell)) or {}).get("error") or {}
            self.console.print(
                f"{cell} failed in {error.get('step')}: {error.get('message')}", style="red", markup=False
            )
            for line in error.get("log_tail", [])[-5:]:
                self.console.print(f"    {line}", style="dim", highlight=False, markup=False)
        counts = Counter(states.values())
        self.console.print(", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word]))
        self.console.print(f"tensorboard --logdir {self.folder.root / 'tensorboard'}", highlight=False)
        return 1 if counts["failed"] else 0
