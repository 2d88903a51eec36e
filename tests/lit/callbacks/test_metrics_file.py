"""metrics.json says what its metrics were measured on, whichever evaluation wrote last."""

import json
from types import SimpleNamespace

import pytest

from lit_blip2.lit.callbacks.metrics_file import MetricsFile, merged


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
        (  # the test set has no questions of type b, and no captions to score
            about("val", 1, questions=8, images=2, pairs=3) | {"vqa/type_b": 0.5, "caption/cider": 0.5, "binding/x": 1},
            about("test", 1, questions=9, images=4) | {"vqa/type_a": 0.1},
            about("test", 1, questions=9, images=4) | about("val", 1, pairs=3) | {"vqa/type_a": 0.1, "binding/x": 1},
        ),
        ({"caption/cider": 2.0, "x": 1.0}, {"caption/cider": 3.0}, {"caption/cider": 3.0, "x": 1.0}),
    ],
)
def test_each_unit_is_of_its_last_evaluation_and_has_its_own_share(before, new, found):
    assert merged(before, new) == found


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
