"""Step runs of another sweep beside this one: which are copied, under which names, and what is said of them."""

import pytest

from lit_blip2.ablation.folder import Folder, read, write
from lit_blip2.ablation.run import beside, provenance
from lit_blip2.ablation.run.beside import take_beside
from lit_blip2.ablation.schema import Done, Parents, Plan
from lit_blip2.whole_files import write_json


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(provenance, "versions", lambda: {})


@pytest.fixture
def first(make, tmp_path):
    """A sweep of four cells that has ended: shared/0 and shared/1, and an own step for each."""
    sweep = make(4, out="first", storage=f"sqlite:///{tmp_path}/first.db")
    sweep.work()
    return sweep.folder


def changed(plan: Plan, name: str, **fields) -> Plan:
    """The plan with another step run of this name."""
    return plan.model_copy(update={"steps": plan.steps | {name: plan.steps[name].model_copy(update=fields)}})


def started_again(folder: Folder) -> set[str]:
    """Step runs that were begun more than once: a copied one brings its first beginning along."""
    files = folder.root.glob("runs/*/*/attempts.txt")
    return {str(file.parent.relative_to(folder.root / "runs")) for file in files if len(file.read_text().split()) > 1}


def test_equal_steps_of_another_sweep_are_taken_and_the_others_are_run(make, first):
    sweep = make(4)
    sweep.plan = changed(sweep.plan, "own/2", key="another")
    assert take_beside(sweep.plan, sweep.folder) == [
        f"5 of 6 step runs are taken from {first.root}, which has run the same"
    ]
    assert not sweep.folder.run("own/2").exists()
    sweep.work()
    assert len(sweep.states()) == 4 and {state for _, state in sweep.states()} == {"COMPLETE"}
    assert started_again(sweep.folder) == set()
    assert read(sweep.folder.done("shared/0"), Done) == read(first.done("shared/0"), Done)
    assert take_beside(sweep.plan, sweep.folder) == []


def test_a_checkpoint_is_held_once_and_what_is_written_in_place_is_not_shared(make, first):
    checkpoint = first.run("shared/0") / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    sweep = make(1)
    take_beside(sweep.plan, sweep.folder)
    copy = sweep.folder.run("shared/0") / "checkpoints" / "last.ckpt"
    assert copy.samefile(checkpoint) and not copy.is_symlink()
    assert not (sweep.folder.run("shared/0") / "log.txt").samefile(first.run("shared/0") / "log.txt")


def test_a_run_s_record_names_the_runs_behind_it_as_this_sweep_does(make, first):
    write(first.done("own/0"), read(first.done("own/0"), Done).model_copy(update={"parents": {"shared/0": 10}}))
    write_json(first.parents("own/0"), {"shared/0": 10})
    sweep = make(1)
    renamed = sweep.plan.steps["shared/0"].model_copy(update={"name": "shared/zero"})
    own = sweep.plan.steps["own/0"].model_copy(update={"parents": {"shared": "shared/zero"}})
    sweep.plan = sweep.plan.model_copy(update={"steps": {"shared/zero": renamed, "own/0": own}})
    take_beside(sweep.plan, sweep.folder)
    assert read(sweep.folder.done("own/0"), Done).parents == {"shared/zero": 10}
    assert read(sweep.folder.parents("own/0"), Parents).root == {"shared/zero": 10}
    assert sweep.folder.done("shared/zero").exists()


def test_what_has_not_ended_or_does_not_stand_as_told_is_not_taken(make, first, tmp_path):
    first.done("shared/0").unlink()
    read_file = tmp_path / "net.py"
    read_file.write_text("a = 1")
    done = read(first.done("own/0"), Done)
    write(first.done("own/0"), done.model_copy(update={"reads": {str(read_file): "what it was"}}))
    first.metrics("own/1").unlink()
    sweep = make(4)
    assert take_beside(sweep.plan, sweep.folder)[0].startswith("3 of 6 step runs")
    assert {name for name in sweep.plan.steps if sweep.folder.done(name).exists()} == {"shared/1", "own/2", "own/3"}


def test_a_copy_that_was_interrupted_is_made_anew(make, first, monkeypatch):
    sweep = make(4)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(beside, "_copy", lambda *_: 1 / 0)  # as a kill would end it
        take_beside(sweep.plan, sweep.folder)
    assert not list(sweep.folder.root.glob("runs/*/*"))
    assert take_beside(sweep.plan, sweep.folder)[0].startswith("6 of 6 step runs")
    assert not (sweep.folder.root / "copying").exists()


def test_sweeps_with_other_libraries_are_passed_over(make, first, monkeypatch):
    write(first.plan, read(first.plan, Plan).model_copy(update={"versions": {"python": "3.11.7", "torch": "1.0"}}))
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "2.0"})
    sweep = make(4)
    assert take_beside(sweep.plan, sweep.folder) == []
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "1.0"})
    assert take_beside(sweep.plan, sweep.folder)[0].startswith("6 of 6 step runs")


def test_a_damaged_sweep_is_named_and_passed_over(make, first, tmp_path):
    whole = first.done("own/0").read_text()
    first.done("own/0").write_text("{}")
    sweep = make(4)
    (line,) = take_beside(sweep.plan, sweep.folder)
    assert line.startswith(f"nothing is taken from {first.root}: {first.done('own/0')}: no 'key'")
    first.done("own/0").write_text(whole)
    first.metrics("own/0").write_text('{"loss/total": 1')
    (line,) = take_beside(sweep.plan, sweep.folder)
    assert "metrics.json cannot be read as JSON" in line


def test_a_link_out_of_another_sweep_is_not_followed(make, first, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (first.run("own/0") / "checkpoints").symlink_to(tmp_path / "elsewhere")
    (line,) = take_beside((sweep := make(4)).plan, sweep.folder)
    assert line.startswith(f"nothing is taken from {first.root}: ") and "leads out of" in line
