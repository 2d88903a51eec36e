"""Cells of which the records are kept beside the ablation: which are taken, which are not, and what is said of them."""

import pytest

from lit_blip2.ablation import kept as kept_module
from lit_blip2.ablation.folder import Folder, SweepError, read, write
from lit_blip2.ablation.kept import keep
from lit_blip2.ablation.run import provenance, taken
from lit_blip2.ablation.schema import Done, Plan, Record
from lit_blip2.contents import DataError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(taken, "write_cell", lambda *_: None)
    monkeypatch.setattr(provenance, "versions", lambda: {})


@pytest.fixture
def kept(make, tmp_path):
    """What is kept of four cells that have ended."""
    sweep = make(4, out="first", storage=f"sqlite:///{tmp_path}/first.db")
    sweep.work()
    keep(sweep.folder.root, tmp_path / "kept")
    return Folder(tmp_path / "kept")


def changed(plan: Plan, name: str, **fields) -> Plan:
    """The plan with another step run of this name."""
    return plan.model_copy(update={"steps": plan.steps | {name: plan.steps[name].model_copy(update=fields)}})


def take(sweep, kept: Folder) -> list[str]:
    return taken.take(sweep.plan, sweep.grid, kept, sweep.folder, sweep.empty_queue())


def test_what_is_kept_is_not_run_and_the_rest_is(make, kept):
    kept.cell("k=3,seed=0").unlink()
    sweep = make(4)
    assert take(sweep, kept) == [f"3 of 4 cells are taken from {kept.root}"]
    sweep.work()
    assert {state for _, state in sweep.states()} == {"COMPLETE"} and len(sweep.states()) == 4
    started = {file.parent.name for file in sweep.folder.root.glob("runs/own/*/attempts.txt")}
    assert started == {"3"}
    records = [read(sweep.folder.cell(f"k={k},seed=0"), Record) for k in range(3)]
    assert records == [read(kept.cell(f"k={k},seed=0"), Record) for k in range(3)]
    assert take(sweep, kept) == []  # the queue knows them all


def test_a_record_tells_its_keys_and_its_commit(make, tmp_path):
    sweep = make(1)
    sweep.plan = sweep.plan.model_copy(update={"commit": "abc", "dirty": False})
    assert sweep.run() == 0
    record = read(sweep.folder.cell("k=0,seed=0"), Record)
    assert record.keys == {"shared/0": "shared/0", "own/0": "own/0"} and (record.commit, record.dirty) == ("abc", False)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        ({"key": "x", "code": "x"}, "made at commit abc with other code of lit_blip2 in step own"),
        ({"key": "x", "config": {"trainer": {}, "a": 1}}, "made at commit abc with other settings in step own"),
        ({"key": "x"}, "made at commit abc with other steps before it in step own"),
    ],
)
def test_a_record_of_another_step_is_not_taken_and_the_reason_is_said(make, kept, now, reason):
    plan = read(kept.plan, Plan)
    write(kept.plan, plan.model_copy(update={"commit": "abc"}))
    sweep = make(4)
    sweep.plan = changed(sweep.plan, "own/1", **now)
    assert take(sweep, kept) == [
        f"3 of 4 cells are taken from {kept.root}",
        f"1 of 4 cells are not taken from {kept.root} (k=1,seed=0): {reason}",
    ]


def test_contents_of_a_named_file_are_a_reason(make, kept, tmp_path):
    (tmp_path / "data.json").write_text("[]")
    config = {"trainer": {}, "root": str(tmp_path / "data.json")}
    known = changed(read(kept.plan, Plan), "own/0", config=config)
    write(kept.plan, known.model_copy(update={"files": {config["root"]: "then"}}))
    sweep = make(4)
    sweep.plan = changed(sweep.plan, "own/0", config=config, key="x")
    sweep.plan = sweep.plan.model_copy(update={"files": {config["root"]: "now"}})
    assert (
        f"(k=0,seed=0): made at commit None with other contents of {config['root']} in step own" in take(sweep, kept)[1]
    )


def test_a_step_of_another_name_is_taken_by_its_key(make, kept):
    """As where an axis has got another label, and a step is shared by fewer cells."""
    sweep = make(4)
    renamed = sweep.plan.steps["own/2"].model_copy(update={"name": "own/two", "folder": "runs/own/two"})
    cell = sweep.plan.cells[2].model_copy(
        update={"steps": ["shared/0", "own/two"], "metrics": {"loss/total": "own/two"}}
    )
    cells = [cell if each.labels == cell.labels else each for each in sweep.plan.cells]
    steps = {name: run for name, run in sweep.plan.steps.items() if name != "own/2"} | {"own/two": renamed}
    sweep.plan = sweep.plan.model_copy(update={"cells": cells, "steps": steps})
    assert take(sweep, kept) == [f"4 of 4 cells are taken from {kept.root}"]
    assert sweep.folder.done("own/two").exists()
    assert read(sweep.folder.cell(cell.name), Record).keys == {"shared/0": "shared/0", "own/two": "own/2"}


def test_what_failed_or_lacks_a_metric_is_run_again(make, kept):
    cell = kept.cell("k=0,seed=0")
    write(cell, read(cell, Record).model_copy(update={"state": "failed"}))
    kept.metrics("own/1").unlink()
    sweep = make(4)
    assert take(sweep, kept) == [
        f"2 of 4 cells are taken from {kept.root}",
        f"1 of 4 cells are not taken from {kept.root} (k=1,seed=0): a metric is missing",
    ]


def test_a_record_that_its_run_s_metrics_contradict_is_not_taken(make, kept):
    kept.metrics("own/0").write_text('{"loss/total": 9.0}')
    assert take(make(4), kept) == [
        f"3 of 4 cells are taken from {kept.root}",
        f"1 of 4 cells are not taken from {kept.root} (k=0,seed=0): its record and its run's metrics.json do not "
        "agree on loss/total",
    ]


def test_a_record_of_another_cell_is_not_taken(make, kept):
    cell = kept.cell("k=0,seed=0")
    write(cell, read(cell, Record).model_copy(update={"seed": 7}))
    assert take(make(4), kept)[1].endswith("(k=0,seed=0): its record is another cell's")


def test_a_run_that_was_kept_in_part_has_no_record_of_its_end(make, tmp_path, monkeypatch):
    sweep = make(1, out="first", storage=f"sqlite:///{tmp_path}/first.db")
    sweep.work()
    monkeypatch.setattr(kept_module, "read_validations", lambda file: 1 / 0)  # as a kill would end it
    with pytest.raises(ZeroDivisionError):
        kept_module.copy_run(sweep.folder, "own/0", Folder(tmp_path / "new"), "own/0", [])
    assert not Folder(tmp_path / "new").done("own/0").exists()


def test_other_libraries_and_changed_files_are_reasons(make, kept, tmp_path, monkeypatch):
    own = tmp_path / "net.py"
    own.write_text("a = 1")
    done = read(kept.done("own/2"), Done)
    write(kept.done("own/2"), done.model_copy(update={"reads": {str(own): "what it was"}}))
    assert f"{own} has changed since own/2 read it" in take(make(4), kept)[1]
    write(kept.plan, read(kept.plan, Plan).model_copy(update={"versions": {"torch": "1.0"}}))
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "2.0"})
    assert take(make(4, out="other", storage=f"sqlite:///{tmp_path}/other.db"), kept) == [
        f"4 of 4 cells are not taken from {kept.root} (k=0,seed=0): made with torch 1.0, now 2.0"
    ]


def test_records_without_a_plan_are_not_taken(make, kept):
    kept.plan.unlink()
    assert take(make(4), kept) == [
        f"4 of 4 cells are not taken from {kept.root} (k=0,seed=0): no plan.json lies there, which holds the "
        "fingerprints of their steps"
    ]


def test_a_folder_that_is_not_there_is_passed_over(make, tmp_path):
    assert take(make(2), Folder(tmp_path / "nothing")) == []


def test_records_of_somebody_else_are_read_with_care(make, kept, tmp_path):
    file = kept.cell("k=0,seed=0")
    whole = file.read_text()
    file.write_text(whole.replace('"done"', '"won"'))
    with pytest.raises(SweepError, match="'won' is none of done, failed, pruned"):
        take(make(4), kept)
    file.write_text(whole.replace('"shared/0"', '"../../shared/0"'))
    with pytest.raises(SweepError, match="leads out of the sweep's folder"):
        take(make(4), kept)
    file.unlink()
    file.symlink_to(tmp_path / "first" / "plan.json")
    with pytest.raises(DataError, match="leads out of"):
        take(make(4), kept)
