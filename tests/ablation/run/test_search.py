"""A search: trials from ranges, shared steps, pruning by validation, a killed worker's trial taken over."""

import json
import math
from contextlib import ExitStack
from pathlib import Path

import pytest
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_blip2.ablation.folder import Folder, read_validations
from lit_blip2.ablation.run import space, trials, worker
from lit_blip2.ablation.run.locks import try_lock
from lit_blip2.ablation.run.queue import Queue
from lit_blip2.ablation.run.step import StepError
from lit_blip2.ablation.run.storage import open_storage
from lit_blip2.ablation.schema import DONE, Failure
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.resolve import ParserOnly, build, resolve

SEARCH = """
steps:
  stage1: {fit: a.yaml}
  stage2: {fit: b.yaml, set: {model.init_from: $stage1}}
axes:
  lr: {key: stage2.model.lr, low: 1.0e-4, high: 1.0e-2, log: true}
  layers: {key: stage2.model.layers, low: 1, high: 3}
trials: 6
seeds: [5]
metrics: [vqa/accuracy]
"""


def answer(request: dict) -> dict:
    """What lit_blip2.resolve would say: a config that holds the arguments."""
    _, file, *options = request["arguments"]
    settings = dict(option.removeprefix("--model.").split("=", 1) for option in options)
    settings |= {name: json.loads(settings[name]) for name in ("lr", "layers") if name in settings}
    if settings.get("layers", 0) > 9:
        return {"error": "layers=10 must be at most 9"}
    config = {"seed_everything": 0, "trainer": {"logger": None}, "data": {"init_args": {"seed": 0}}}
    metrics = ["vqa/accuracy"] if file == "b.yaml" else ["loss/itc"]
    return {"config": config | {"model": {"init_args": settings}}, "metrics": metrics, "steps": 7}


@pytest.fixture
def grid(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "ask", lambda requests: [answer(each) for each in requests])
    (tmp_path / "trial.yaml").write_text(SEARCH)
    return read_grid(tmp_path / "trial.yaml")


@pytest.fixture
def queue(grid, tmp_path):
    (tmp_path / "out").mkdir()
    return Queue(open_storage(f"sqlite:///{tmp_path}/study.db"), grid, "x", Folder(tmp_path / "out"))


def run_all(grid, queue, folder: Folder, run, monkeypatch) -> list:
    """Every trial, with `run(step run, watch)` in place of a process; the trials in order."""
    monkeypatch.setattr(worker, "run_step", lambda one, folder, environment, stopping, watch: run(one, watch))
    trials.search(space.make_space(grid), worker.Worker(grid, queue, folder, {}, lambda: False, print))
    return queue.trials()


def write(folder: Folder, name: str, metrics: dict, curve=()) -> Path:
    run_folder = folder.run(name)
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    folder.validations(name).write_text("".join(json.dumps(point) + "\n" for point in curve))
    return folder.validations(name)


def test_a_trial_has_its_values_and_shares_what_they_do_not_touch(grid):
    plan = space.trial_plan(grid, space.make_space(grid), {"lr": 0.003, "layers": 2})
    assert plan.cells[0].steps == ["stage1/seed=5", "stage2/lr=0.003,layers=2,seed=5"]
    settings = plan.steps["stage2/lr=0.003,layers=2,seed=5"].config["model"]["init_args"]
    assert settings == {"init_from": "$stage1", "lr": 0.003, "layers": 2}


def test_an_end_that_is_refused_says_so(grid, tmp_path):
    (tmp_path / "trial.yaml").write_text(SEARCH.replace("high: 3", "high: 10"))
    with pytest.raises(ValueError, match="layers=10 must be at most 9"):
        space.make_space(read_grid(tmp_path / "trial.yaml"))


def test_trials_are_drawn_run_and_counted(grid, queue, tmp_path, monkeypatch):
    folder, ran = queue.folder, []

    def run(one, watch):
        ran.append(one.name)
        settings = one.config["model"]["init_args"]
        write(folder, one.name, {"vqa/accuracy": settings["lr"]} if one.step == "stage2" else {})

    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 6
    for trial in ended:
        record = json.loads(folder.cell(f"trial={trial.number}").read_text())
        assert 1e-4 <= trial.value <= 1e-2 and trial.params["layers"] in (1, 2, 3)
        assert trial.value == record["metrics"]["vqa/accuracy"] == float(record["labels"]["lr"])
        assert trial.value == pytest.approx(trial.params["lr"], rel=1e-5)
    assert ran.count("stage1/seed=5") == 6  # asked for by each; `run_step` runs an equal one once


def test_what_falls_behind_the_median_is_pruned(grid, queue, tmp_path, monkeypatch):
    folder, started = queue.folder, []

    def run(one, watch):
        if one.step == "stage1":
            return write(folder, one.name, {})
        started.append(one)
        value = 0.9 if len(started) < 6 else 0.1
        watch(write(folder, one.name, {"vqa/accuracy": value}, [{"step": 10, "vqa/accuracy": value}]))

    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    record = json.loads(folder.cell("trial=5").read_text())
    assert record["state"] == "pruned" and record["metrics"] == {"vqa/accuracy": 0.1}
    assert ended[0].intermediate_values == {10: 0.9}


def test_a_failed_trial_is_kept_and_the_search_goes_on(grid, queue, tmp_path, monkeypatch):
    folder = queue.folder

    def run(one, watch):
        if one.step == "stage2":
            raise StepError(Failure(step=one.name, message="exit code 1", log_tail=["why"]))

    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert [trial.state for trial in ended] == [TrialState.FAIL] * 6
    assert json.loads(folder.cell("trial=0").read_text())["error"]["log_tail"] == ["why"]


def test_a_killed_worker_s_trial_is_taken_over_with_its_values(grid, queue):
    lost = queue.study.ask()
    values = trials.draw(grid, lost)
    with trials.take_trial(grid, queue, queue.folder) as trial:
        assert trial.number == lost.number and trials.draw(grid, trial) == values
        with try_lock(trials.trial_lock(queue.folder, trial.number)) as lock:
            assert lock is None
        with trials.take_trial(grid, queue, queue.folder) as other:
            assert other.number == lost.number + 1


def drawn(grid, storages: list[str], folder: Path) -> list[dict]:
    """The values of one new trial after the other, each in a queue of its own, as in a process of its own."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as held:
        queues = [Queue(open_storage(storage), grid, "x", Folder(folder)) for storage in storages]
        taken = [held.enter_context(trials.take_trial(grid, queue, queue.folder)) for queue in queues]
        return [trials.draw(grid, trial) for trial in taken]


def test_workers_draw_different_points_and_the_same_history_gives_the_same_ones(grid, tmp_path):
    first = drawn(grid, [f"journal:{tmp_path}/a.log"] * 3, tmp_path / "a")
    assert len({values["lr"] for values in first}) == 3
    assert first == drawn(grid, [f"journal:{tmp_path}/b.log"] * 3, tmp_path / "b")


def test_a_worker_that_is_started_again_draws_a_new_point(grid, tmp_path):
    (first,) = drawn(grid, [f"journal:{tmp_path}/a.log"], tmp_path / "a")
    again = Queue(open_storage(f"journal:{tmp_path}/a.log"), grid, "x", Folder(tmp_path / "a"))
    again.end(again.trial_id(0), DONE, 0.5)
    (second,) = drawn(grid, [f"journal:{tmp_path}/a.log"], tmp_path / "a")
    assert second["lr"] != first["lr"]


@pytest.mark.parametrize(
    "written", [{"vqa/accuracy": math.nan}, {"vqa/accuracy": math.inf}, {"vqa/accuracy": None}, {}]
)
def test_an_objective_that_is_not_finite_is_a_failed_trial(grid, queue, monkeypatch, written):
    folder = queue.folder

    def run(one, watch):
        watch(write(folder, one.name, written if one.step == "stage2" else {}, [{"step": 10, "vqa/accuracy": None}]))

    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert [trial.state for trial in ended] == [TrialState.FAIL] * 6
    error = json.loads(folder.cell("trial=0").read_text())["error"]
    assert error["step"].startswith("stage2/") and "in its metrics.json vqa/accuracy is " in error["message"]


def test_a_pruned_trial_has_the_figure_that_it_fell_behind_with(grid, queue, monkeypatch):
    folder, started = queue.folder, []

    def run(one, watch):
        if one.step == "stage1":
            return write(folder, one.name, {})
        started.append(one)
        value = 0.9 if len(started) < 6 else 0.1
        curve = [{"step": 10, "vqa/accuracy": value}, {"step": 20, "vqa/accuracy": None}, {"step": 30}]
        watch(write(folder, one.name, {"vqa/accuracy": value}, curve))

    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert ended[5].state == TrialState.PRUNED
    assert json.loads(folder.cell("trial=5").read_text())["metrics"] == {"vqa/accuracy": 0.1}


def test_every_trial_has_a_run_in_tensorboard(grid, queue, monkeypatch):
    folder = queue.folder

    def run(one, watch):
        if one.step == "stage2" and queue.trials()[-1].number == 1:
            raise StepError(Failure(step=one.name, message="exit code 1", log_tail=[]))
        write(folder, one.name, {"vqa/accuracy": 0.5} if one.step == "stage2" else {})

    run_all(grid, queue, folder, run, monkeypatch)
    runs = {file.parent.name for file in (folder.root / "tensorboard").glob("*/events*")}
    assert runs == {f"trial={number}" for number in range(6)}
    events = EventAccumulator(str(folder.root / "tensorboard" / "trial=0")).Reload()
    assert [each.value for each in events.Scalars("final/vqa/accuracy")] == [0.5]


def test_a_half_written_line_is_not_read(tmp_path):
    (tmp_path / "validation.jsonl").write_text('{"step": 1, "a": 2}\n{"step": 2, ')
    points, faults = read_validations(tmp_path / "validation.jsonl")
    assert [(point.step, point.metrics) for point in points] == [(1, {"a": 2.0})] and not faults


@pytest.mark.run
def test_the_shipped_search_comes_near_the_best_rate_and_prunes(tmp_path, monkeypatch):
    cli = build(ParserOnly, run=False)
    monkeypatch.setattr(space, "ask", lambda requests: [resolve(cli, **each | {"files": False}) for each in requests])
    (tmp_path / "out").mkdir()
    grid, folder = read_grid("ablations/search_lr.yaml"), Folder(tmp_path / "out")

    def run(one, watch):
        off = math.log10(one.config["model"]["init_args"]["optimization"]["init_args"]["lr"] / 2e-3)
        curve = [{"step": step, "loss/total": 3 + off**2 - step / 1000} for step in range(100, 700, 100)]
        for end in range(1, 7):
            watch(write(folder, one.name, {"loss/total": curve[-1]["loss/total"]}, curve[:end]))

    queue = Queue(open_storage(f"sqlite:///{tmp_path}/study.db"), grid, "x", folder)
    ended = run_all(grid, queue, folder, run, monkeypatch)
    assert len(ended) == grid.trials and {trial.state for trial in ended} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert 1e-3 < queue.study.best_params["lr"] < 4e-3
