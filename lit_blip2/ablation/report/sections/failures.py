"""Step, message and log of each cell that failed."""

from lit_blip2.ablation.report.markdown import code, fence, plain
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.schema import FAILED, Failure


def failures_section(sweep: Sweep) -> str:
    """The section; empty if no cell failed."""
    parts = []
    for cell in [cell for cell in sweep.cells if sweep.state(cell) == FAILED]:
        error = sweep.records[cell.name].error
        parts += [f"### {code(cell.name)}", *(_failure(error) if error else ["No error was recorded."])]
    return "\n\n".join(["## Failed cells", *parts]) if parts else ""


def _failure(error: Failure) -> list[str]:
    where = f"Step {code(error.step)}: " if error.step else ""
    log = [line.rstrip("\n") for line in error.log_tail]
    return [where + plain(error.message or "no message"), *([fence(log)] if log else [])]
