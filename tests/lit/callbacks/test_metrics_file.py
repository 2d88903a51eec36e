"""metrics.json says what its metrics were measured on, whichever evaluation wrote last."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from lightning.pytorch.trainer.states import TrainerFn

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.evaluation.evaluated import evaluated, random_marks, read_metrics
from lit_blip2.evaluation.items import Items, read_items
from lit_blip2.lit.callbacks.metrics_file import MetricsFile, merged
from lit_blip2.lit.evaluators.intervals import write_intervals
from lit_blip2.lit.evaluators.tally import Tally


def about(split: str, share: float, **units: int) -> dict[str, float]:
    """What an evaluation of this share of its rows tells."""
    found = {f"evaluated/{split}_{unit}": number for unit, number in units.items()}
    return found | {f"{name}_share": share for name in found}


@pytest.mark.parametrize(
    ("before", "new", "found"),
    [
        (about("val", 0.5, images=4), about("test", 1, images=9), about("test", 1, images=9)),
        (
            about("val", 0.5, images=4, questions=8),
            about("test", 1, questions=9),
            about("val", 0.5, images=4) | about("test", 1, questions=9),
        ),
        (
            about("test", 0.1, images=4),
            about("test", 1, pairs=3),
            about("test", 0.1, images=4) | about("test", 1, pairs=3),
        ),
        (about("test", 0.1, images=4), about("test", 1, images=40), about("test", 1, images=40)),
        ({"loss/itc": 2.0}, {}, {"loss/itc": 2.0}),
        (
            {"evaluated/val_step": 2.0},
            about("val", 1, images=4),
            {"evaluated/val_step": 2.0} | about("val", 1, images=4),
        ),
        (  # the test set has no questions of type b, and no captions to score
            about("val", 1, questions=8, images=2, pairs=3) | {"vqa/type_b": 0.5, "caption/cider": 0.5, "binding/x": 1},
            about("test", 1, questions=9, images=4) | {"vqa/type_a": 0.1},
            about("test", 1, questions=9, images=4) | about("val", 1, pairs=3) | {"vqa/type_a": 0.1, "binding/x": 1},
        ),
        ({"evaluated/random_image_encoder": 1.0, "loss/itc": 2.0}, {"loss/lm": 1.0}, {"loss/itc": 2.0, "loss/lm": 1.0}),
        ({"caption/cider": 2.0, "x": 1.0}, {"caption/cider": 3.0}, {"caption/cider": 3.0, "x": 1.0}),
    ],
)
def test_each_unit_is_of_its_last_evaluation_and_has_its_own_share(before, new, found):
    assert merged(before, new) == found


def test_a_report_says_that_weights_were_random():
    marks = random_marks(["image encoder vit_tiny", "language model some/opt"])
    assert marks == {"evaluated/random_image_encoder": 1.0, "evaluated/random_language_model": 1.0}
    on = evaluated("fit", about("val", 1.0, images=4) | marks, "loss/itc")
    assert str(on) == "val (4 images), with RANDOM weights of the image encoder and the language model, for trials"
    assert str(evaluated("fit", about("val", 1.0, images=4), "loss/itc")) == "val (4 images)"


def trainer(folder, step: int):
    return SimpleNamespace(log_dir=str(folder), is_global_zero=True, global_step=step)


@pytest.mark.parametrize(
    ("metrics", "step", "stays"),
    [
        (about("val", 1, images=4), 3, True),
        (about("test", 1, images=4), 3, False),
        ({"vqa/accuracy": 0.5}, 0, False),  # of a run that lay here before
    ],
)
def test_training_on_leaves_no_metrics_of_weights_that_are_gone(tmp_path, metrics, step, stays):
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "items.npz").write_text("")
    MetricsFile().on_train_start(trainer(tmp_path, step), None)
    assert (tmp_path / "metrics.json").exists() == (tmp_path / "items.npz").exists() == stays


@pytest.mark.parametrize(("told", "kept"), [({"evaluated/test_step": 4.0}, "step=4"), ({}, "earlier")])
def test_what_a_server_may_get_says_of_which_step_it_is_once_training_goes_on(tmp_path, told, kept):
    (tmp_path / "metrics.json").write_text(json.dumps(about("test", 1, questions=4) | told))
    for name in ("predictions.jsonl", "submission_vqa.json", "intervals.json", f"submission_captions.{kept}.json"):
        (tmp_path / name).write_text("of this test")
    with pytest.warns(UserWarning, match=f"it is kept as submission_vqa.{kept}.json"):
        MetricsFile().on_train_start(trainer(tmp_path, 4), None)
    names = {f"predictions.{kept}.jsonl", f"submission_vqa.{kept}.json", f"submission_captions.{kept}.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / f"submission_vqa.{kept}.json").read_text() == "of this test"


def strict(text: str) -> dict:
    """JSON as its standard has it: no NaN, no Infinity."""

    def refuse(word: str):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def odd_losses(monkeypatch):
    """Evaluations whose ITC loss is nan, and ITM's infinite."""
    whole = Tally.metrics
    odd = {"loss/itc": math.nan, "loss/itm": -math.inf}
    monkeypatch.setattr(Tally, "metrics", lambda *given: whole(*given) | odd)


def test_metrics_that_are_not_finite_are_named_and_null_in_every_file(fit, odd_losses, tmp_path):
    with pytest.warns(UserWarning, match="step 2: loss/itc is nan, loss/itm is -inf: not finite"):
        run = fit("mini_stage1", runs=tmp_path)
    lines = [strict(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    metrics = strict((run / "metrics.json").read_text())
    for found in (*lines, metrics):
        assert found["loss/itc"] is None and found["loss/itm"] is None and math.isfinite(found["loss/itg"])
    assert [line["step"] for line in lines] == [2, 4] and metrics["evaluated/val_step"] == 4
    assert all(map(math.isfinite, read_checkpoint(run)["logged"].values()))
    with pytest.warns(UserWarning, match="step 4: loss/itc is nan"):
        fit("mini_stage1", f"--ckpt_path={run}", command="test", runs=tmp_path)
    for file in run.glob("*.json"):
        strict(file.read_text())
    assert read_metrics(run / "metrics.json")["loss/itm"] is None


def test_an_older_file_of_metrics_is_read_as_one_of_today(tmp_path):
    (tmp_path / "metrics.json").write_text('{"a": NaN, "b": Infinity, "c": null, "d": 1}')
    assert read_metrics(tmp_path / "metrics.json") == {"a": None, "b": None, "c": None, "d": 1}


def test_a_metric_that_is_not_finite_has_no_items_and_no_interval(tmp_path):
    numbers = np.arange(3)
    whole, odd = Items(np.ones(3), numbers, numbers), Items(np.array([1, np.inf, 0]), numbers, numbers)
    write_intervals(trainer(tmp_path, 1), {"a": whole, "b": odd})
    assert (
        read_items(tmp_path / "items.npz").keys() == strict((tmp_path / "intervals.json").read_text()).keys() == {"a"}
    )


def test_what_training_logged_outlives_a_second_cut_of_the_same_validation():
    trainer = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.FITTING), callback_metrics={"loss/itc": 1.0})
    module, checkpoint = SimpleNamespace(config="a: 1"), {"config": "a: 1", "logged": {"train/lr": 0.5}}
    callback = MetricsFile()
    callback.on_load_checkpoint(trainer, module, checkpoint)
    callback.on_save_checkpoint(trainer, module, again := {})
    assert again["logged"] == {"train/lr": 0.5}
