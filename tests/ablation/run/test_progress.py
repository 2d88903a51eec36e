"""What a person sees of a sweep: the table while it runs, and what became of its cells."""

from datetime import UTC, datetime

import pytest
from rich.console import Console

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run.progress import MOST_ROWS, Progress
from lit_blip2.ablation.schema import Done
from tests.ablation.run.hand_made import HandMade


def progress_of(sweep: HandMade) -> Progress:
    """On a terminal."""
    console = Console(record=True, width=120, force_terminal=True, color_system=None)
    return Progress(sweep.grid, sweep.plan, sweep.queue(), sweep.folder, 1, console)


def shown(progress: Progress) -> list[list[str]]:
    """The title's words, then the cells of each row."""
    table = progress.table()
    progress.console.print(table)
    lines = progress.console.export_text().splitlines()
    rows = [[part.strip() for part in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    return [table.title.removeprefix("hand_made: ").split(", "), *rows]


@pytest.mark.run
def test_the_table_says_how_far_each_cell_is_and_how_long_the_rest_takes(make):
    sweep = make(2, own_0="broken")
    progress = progress_of(sweep)
    assert shown(progress) == [
        ["0 of 2", "time left unknown before a first shared is done"],
        ["k=0,seed=0", "waiting", "shared own"],
        ["k=1,seed=0", "waiting", "shared own"],
    ]
    assert sweep.run() == 1
    assert shown(progress) == [
        ["2 of 2", "1 failed"],
        ["k=0,seed=0", "failed", "shared own"],
        ["k=1,seed=0", "done", "shared own"],
    ]


def test_what_does_not_fit_is_counted(make):
    progress = progress_of(make(MOST_ROWS + 2))
    assert len(shown(progress)) == MOST_ROWS + 2 and shown(progress)[-1][0] == "and 2 more"


@pytest.mark.run
def test_the_end_names_what_failed_with_its_log(make):
    sweep = make(2, own_0="broken")
    progress = progress_of(sweep)
    sweep.run()
    assert progress.finish() == 1
    said = progress.console.export_text()
    assert "k=0,seed=0 failed in own/0: fit ended: exit code 3\n    the script is broken\n" in said
    assert "1 done, 1 failed\n" in said and "tensorboard --logdir" in said


def test_the_time_left_is_that_of_equal_steps_beside_this_sweep_until_own_ones_are_done(make):
    """Two cells need a shared step and two own ones; one worker."""
    sweep = make(2)
    other = Folder(sweep.folder.root.parent / "other")
    write(other.plan, sweep.plan)
    ended(other, "shared/0", 600.0)
    ended(other, "own/0", 60.0)
    ended(other, "own/1", 120.0)
    progress = progress_of(sweep)
    assert progress.standing(progress.queue.states()) == "0 of 2, 13 min left"  # 600 + 2 x 90 s
    ended(sweep.folder, "shared/0", 20.0)
    ended(sweep.folder, "own/0", 10.0)
    assert progress.standing(progress.queue.states()) == "0 of 2, 10 s left"


def test_a_log_file_says_with_each_cell_how_far_the_sweep_is(make, capsys):
    sweep = make(2)
    console = Console(width=200)
    Progress(sweep.grid, sweep.plan, sweep.queue(), sweep.folder, 1, console).tell("k=0,seed=0: begins")
    said = capsys.readouterr().out
    assert said.endswith("k=0,seed=0: begins (0 of 2, time left unknown before a first shared is done)\n")


def ended(folder: Folder, name: str, seconds: float) -> None:
    now = datetime.now(UTC)
    folder.run(name).mkdir(parents=True, exist_ok=True)
    how = {"steps": 10, "peak_memory_gib": 1.0, "attempts": 1}
    write(folder.done(name), Done(key=name, seconds=seconds, began=now, ended=now, **how))
