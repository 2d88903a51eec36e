"""What a person sees of a sweep while it runs: a live table of cells, and the summary at its end."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from rich.live import Live
from rich.table import Table
from rich.text import Text

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.run.estimate import folders_of, known_seconds, seconds_of
from lit_blip2.ablation.run.locks import is_locked
from lit_blip2.ablation.run.queue import RUNNING, WORDS, Queue
from lit_blip2.ablation.schema import DONE, FAILED, PRUNED, WAITING, Cell, Plan, Record
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.console import Console, styled
from lit_blip2.terminal import duration

REFRESH_SECONDS = 1.0
MOST_ROWS = 24
SHOWN_TAIL = 5  # lines of a failed step's log
ORDER = (RUNNING, FAILED, WAITING, PRUNED, DONE)
STYLES = {DONE: "green", FAILED: "red", RUNNING: "cyan", PRUNED: "yellow"}


class Progress:
    """The live table of cells. Without a terminal: a line when a cell begins or ends, with how far the sweep is."""

    def __init__(self, grid: Grid, plan: Plan, queue: Queue, folder: Folder, workers: int, console: Console):
        self.grid, self.plan, self.queue, self.folder = grid, plan, queue, folder
        self.workers, self.console = workers, console
        self.known = known_seconds(folders_of(folder))

    def tell(self, line: str) -> None:
        if not self.console.is_terminal:
            said = f"{time.strftime('%H:%M:%S')} {line} ({self.standing(self.queue.states())})"
            self.console.print(said, highlight=False, soft_wrap=True)

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
        """The cells, running ones first. Those that do not fit are only counted."""
        states = self.queue.states()
        table = Table(title=f"{self.grid.name}: {self.standing(states)}")
        for head in ("cell", "state", "steps"):
            table.add_column(head, overflow="fold")
        planned = {cell.name: cell for cell in self.plan.cells}
        for cell in sorted(states, key=lambda cell: ORDER.index(states[cell]))[:MOST_ROWS]:
            style = STYLES.get(states[cell], "default")
            table.add_row(cell, styled(states[cell], style), self._steps(planned.get(cell)))
        if len(states) > MOST_ROWS:
            table.add_row(f"and {len(states) - MOST_ROWS} more", "", "")
        return table

    def _steps(self, cell: Cell | None) -> Text:
        """The cell's steps, coloured by how far they are. Empty for a search's trials, whose steps no plan lists."""
        words = []
        for name in cell.steps if cell else []:
            step = self.plan.steps[name].step
            if self.folder.done(name).exists():
                words.append(styled(step, "green"))
            elif self.folder.failed(name).exists():
                words.append(styled(step, "red"))
            else:
                running = is_locked(self.folder.lock(name))
                words.append(styled(f"{step} ...", "cyan") if running else styled(step, "dim"))
        return Text(" ").join(words)

    def standing(self, states: Mapping[str, str]) -> str:
        """`3 of 35, 1 failed, 12 min left`: how many of all cells have ended."""
        ended = sum(state not in (WAITING, RUNNING) for state in states.values())
        failed = sum(state == FAILED for state in states.values())
        parts = [f"{ended} of {self.grid.trials or len(states)}", *([f"{failed} failed"] if failed else [])]
        return ", ".join([*parts, *self.time_left(ended < len(states))])

    def time_left(self, open_cells: bool) -> list[str]:
        """The time left, from the seconds that steps of the same size have taken, spread over this command's workers;
        empty for a search, and once all is done."""
        if self.grid.ranges or not open_cells:
            return []
        undone = [
            run
            for name, run in self.plan.steps.items()
            if not (self.folder.done(name).exists() or self.folder.failed(name).exists())
        ]
        own = known_seconds([self.folder])
        seconds, unknown = seconds_of(undone, own | {size: s for size, s in self.known.items() if size not in own})
        if unknown:
            return [f"time left unknown before a first {unknown} is done"]
        return [f"{duration(seconds / self.workers)} left"]

    def finish(self) -> int:
        """Print how the cells ended, and where to read on. Returns the exit status."""
        states = self.queue.states()
        failed = [cell for cell, state in states.items() if state == FAILED]
        for cell in failed:
            record = read(self.folder.cell(cell), Record)
            if error := record and record.error:
                self.console.print(f"{cell} failed in {error.step}: {error.message}", style="red")
                tail = "\n".join(f"    {line}" for line in error.log_tail[-SHOWN_TAIL:])
                self.console.print(tail, style="dim", highlight=False)
        self.console.print(_counts(states))
        self.console.print(f"tensorboard --logdir {self.folder.root / 'tensorboard'}", highlight=False)
        return 1 if failed else 0


def _counts(states: dict[str, str]) -> str:
    counts = Counter(states.values())
    return ", ".join(f"{counts[word]} {word}" for word in WORDS.values() if counts[word])
