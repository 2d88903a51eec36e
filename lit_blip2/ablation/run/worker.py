"""What a worker works with, on a grid's cells or on a search's trials."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lit_blip2.ablation.folder import Folder, read
from lit_blip2.ablation.reached import reached
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.reads import check_files, check_unchanged
from lit_blip2.ablation.run.step import run_step
from lit_blip2.ablation.schema import Cell, Done, Metrics, Plan, Reached
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.sources import PACKAGE, sources


@dataclass(frozen=True)
class Worker:
    """environment: of its processes. stopping: whether to end. tell: gets a line for each start and end. commit, dirty:
    of the code that runs, see Record."""

    grid: Grid
    queue: Queue
    folder: Folder
    environment: Mapping[str, str]
    stopping: Callable[[], bool]
    tell: Callable[[str], None]
    commit: str | None = None
    dirty: bool | None = None

    def run(self, plan: Plan, name: str, watch: Callable[[Path], None] = lambda validations: None) -> None:
        """Make one of the plan's step runs; see run_step. Raises ValueError if the code was edited since the sweep
        began: its cells would not be comparable."""
        if plan.sources not in ("", sources()):
            raise ValueError(
                f"the sources in {PACKAGE} have changed since this sweep began: put them back and start the same "
                "command again, or begin another sweep with --out. (A sweep is best run from a checkout of its own.)"
            )
        check_files(plan.steps[name], plan, self.folder)
        check_unchanged(self.folder)
        run_step(plan.steps[name], self.folder, self.environment, self.stopping, watch)
        check_unchanged(self.folder)  # no later step looks after a worker's last one

    def metrics(self, name: str) -> dict[str, float | None]:
        """What a step run ended with; empty if it wrote nothing."""
        ended = read(self.folder.metrics(name), Metrics)
        return ended.root if ended else {}

    def reached(self, plan: Plan, cell: Cell) -> dict[str, Reached]:
        """Step run -> how far it came, for the cell's runs that have ended well."""
        done = {name: each for name in cell.steps if (each := read(self.folder.done(name), Done))}
        metrics = {name: each for name in done if (each := read(self.folder.metrics(name), Metrics))}
        return reached(plan.steps, [cell], done, metrics)
