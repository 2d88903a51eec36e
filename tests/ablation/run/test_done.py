"""A step that ended well is not made again, unless its checkpoint is of other steps than its record says."""

from datetime import UTC, datetime

import pytest
import torch

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.run.anew import set_aside
from lit_blip2.ablation.run.command import command
from lit_blip2.ablation.run.made import agrees, going_on, parents_of, steps_made
from lit_blip2.ablation.run.step import _ended, _patience
from lit_blip2.ablation.schema import Done, StepRun
from lit_blip2.whole_files import write_json

NOW = datetime.now(UTC)
RUN = StepRun(
    name="fit/seed=0",
    step="fit",
    command="fit",
    key="k",
    folder="runs/fit/seed=0",
    parents={},
    config={},
    max_steps=300,
)


def done_of(**more) -> Done:
    return Done(key="k", seconds=1.0, steps=300, peak_memory_gib=0.1, began=NOW, ended=NOW, attempts=1, **more)


@pytest.mark.parametrize(("made", "again"), [(300, False), (20, True), (None, True)])
def test_a_record_that_its_checkpoint_contradicts_is_made_again(tmp_path, made, again):
    folder = Folder(tmp_path)
    write(folder.done(RUN.name), done_of())
    if made is not None:
        torch.save({"state_dict": {}, "global_step": made}, folder.run(RUN.name) / "last.ckpt")
    assert (_ended(RUN, folder) is None) == again
    # One that was removed to make room says nothing.
    assert agrees(RUN, folder, done_of(), if_lost=True) == (made != 20)


def test_without_a_checkpoint_the_last_validation_tells_the_steps(tmp_path):
    folder, none = Folder(tmp_path), RUN.model_copy(update={"config": {"trainer": {"enable_checkpointing": False}}})
    assert steps_made(none, folder) is None
    write_json(folder.metrics(RUN.name), {"evaluated/val_step": 200.0})
    assert steps_made(none, folder) == 200 and agrees(none, folder, done_of())
    assert not agrees(RUN, folder, done_of())


TEST = RUN.model_copy(update={"name": "vqa/0", "command": "test", "parents": {"fit": RUN.name}, "max_steps": None})
NEXT = RUN.model_copy(update={"name": "stage2/0", "parents": {"fit": RUN.name}})


@pytest.mark.parametrize(("then", "again"), [({RUN.name: 300}, False), ({RUN.name: 4}, True), ({}, False)])
@pytest.mark.parametrize("run", [TEST, NEXT], ids=["tested", "started from"])
def test_a_run_that_has_gone_on_is_read_again(tmp_path, run, then, again):
    folder = Folder(tmp_path)
    for name in (RUN.name, NEXT.name):
        folder.run(name).mkdir(parents=True)
        torch.save({"state_dict": {}, "global_step": 300}, folder.run(name) / "last.ckpt")
    assert parents_of(run, folder) == {RUN.name: 300}
    write(folder.done(run.name), done_of(parents=then).model_copy(update={"steps": run.max_steps}))
    assert (_ended(run, folder) is None) == again
    (folder.run(RUN.name) / "last.ckpt").unlink()  # to make room
    assert _ended(run, folder) is not None


def test_a_fit_starts_over_where_what_it_started_from_has_gone_on(tmp_path):
    """Also one that was killed on its way, and a test of a fit that was made anew, at the same step."""
    folder, last = Folder(tmp_path), TEST.model_copy(update={"parents": {"stage2": NEXT.name}})

    def stand(name: str, step: int) -> None:
        folder.run(name).mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": {}, "global_step": step}, folder.run(name) / "last.ckpt")

    stand(RUN.name, 4)
    assert parents_of(NEXT, folder) == {RUN.name: 4}
    stand(NEXT.name, 200)
    assert parents_of(NEXT, folder) == {RUN.name: 4} and going_on(NEXT, folder).step == 200
    tested = done_of(parents=parents_of(last, folder)).model_copy(update={"steps": None})
    assert tested.parents == {NEXT.name: 200, RUN.name: 4} and agrees(last, folder, tested)
    stand(RUN.name, 6)
    assert going_on(NEXT, folder) is None and not agrees(last, folder, tested)
    set_aside(NEXT, folder)
    assert parents_of(NEXT, folder) == {RUN.name: 6}
    stand(NEXT.name, 200)
    assert going_on(NEXT, folder).step == 200 and not agrees(last, folder, tested)
    folder.parents(NEXT.name).unlink()  # an older one, of which that is not known
    assert parents_of(NEXT, folder) == {} and going_on(NEXT, folder).step == 200


def test_a_shorter_fit_that_has_ended_and_lost_its_metrics_starts_over(tmp_path):
    folder = Folder(tmp_path)
    write(folder.done(RUN.name), done_of().model_copy(update={"steps": 4}))
    torch.save({"state_dict": {}, "global_step": 4}, folder.run(RUN.name) / "last.ckpt")
    assert going_on(RUN, folder) is None
    write_json(folder.metrics(RUN.name), {})
    assert going_on(RUN, folder).step == 4


@pytest.mark.parametrize(("tested", "again"), [(300.0, False), (4.0, True)])
def test_what_a_test_tells_of_its_step_counts(tmp_path, tested, again):
    folder = Folder(tmp_path)
    folder.run(RUN.name).mkdir(parents=True)
    torch.save({"state_dict": {}, "global_step": 300}, folder.run(RUN.name) / "last.ckpt")
    write_json(folder.metrics(TEST.name), {"evaluated/test_step": tested})
    assert agrees(TEST, folder, done_of().model_copy(update={"steps": None})) != again


def test_a_step_whose_metrics_were_removed_is_run_again(tmp_path):
    folder, done = Folder(tmp_path), done_of(metrics=True)
    write_json(folder.metrics(RUN.name), {"loss/itc": 1.0})
    assert agrees(RUN, folder, done, if_lost=True)
    folder.metrics(RUN.name).unlink()
    assert not agrees(RUN, folder, done, if_lost=True) and agrees(RUN, folder, done_of(), if_lost=True)


@pytest.mark.parametrize(("config", "seconds"), [({}, 40), ({"grace": 120.0}, 130), ({"grace": 5}, 15)])
def test_a_step_that_is_asked_to_end_has_its_own_grace_time(config, seconds):
    trainer = {
        "callbacks": ["mine.Own", {"class_path": "mine.Other"}, {"class_path": "Checkpoints", "init_args": config}]
    }
    assert _patience(RUN.model_copy(update={"config": {"trainer": trainer}})) == seconds
    assert _patience(RUN) == 40


def test_a_fit_that_has_lost_its_metrics_is_made_anew(tmp_path):
    folder = Folder(tmp_path)
    (checkpoint := folder.run(RUN.name) / "last.ckpt").parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "global_step": 300}, checkpoint)
    assert "--ckpt_path" not in command(RUN, folder)
    write_json(folder.metrics(RUN.name), {})
    assert command(RUN, folder)[-2:] == ["--ckpt_path", str(checkpoint)]


@pytest.mark.parametrize(("told", "again"), [(200, True), (300, False), (None, False)])
def test_metrics_of_another_attempt_than_the_checkpoints_are_made_anew(tmp_path, told, again):
    """As where its metrics were lost once, and the attempt that was to make them was killed after a validation."""
    folder = Folder(tmp_path)
    write(folder.done(RUN.name), done_of())
    torch.save({"state_dict": {}, "global_step": 300, "validated_step": 300}, folder.run(RUN.name) / "last.ckpt")
    write_json(folder.metrics(RUN.name), {} if told is None else {"evaluated/val_step": float(told)})
    assert (_ended(RUN, folder) is None) == ("--ckpt_path" not in command(RUN, folder)) == again
    torch.save({"state_dict": {}, "global_step": 299, "validated_step": 250}, folder.run(RUN.name) / "last.ckpt")
    assert "--ckpt_path" in command(RUN, folder)  # which writes them again


def test_what_an_attempt_has_left_that_starts_over_is_kept_elsewhere(tmp_path):
    folder = Folder(tmp_path)
    assert set_aside(RUN, folder) is None
    for number in (1, 2):
        (folder.run(RUN.name) / "checkpoints").mkdir(parents=True)
        for name in ("config.yaml", "checkpoints/last.ckpt", "attempts.txt", ".training.lock"):
            (folder.run(RUN.name) / name).write_text(str(number))
        assert set_aside(RUN, folder) == (place := tmp_path / "before" / str(number) / RUN.name)
        assert (place / "checkpoints/last.ckpt").read_text() == (place / "config.yaml").read_text() == str(number)
        assert [each.name for each in folder.run(RUN.name).iterdir()] == ["attempts.txt"]
    assert set_aside(RUN, folder) is None
