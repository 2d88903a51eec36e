"""Ranks that would train differently."""

import pytest

from lit_blip2.lit.callbacks import agreement
from lit_blip2.lit.callbacks.agreement import check_agreed, differing, settings_of
from tests.ranks import on_ranks

CONFIG = """
model: {class_path: a.B, init_args: {optimization: {lr: %s}}}
data: {init_args: {seed: 0, root: %s, num_workers: %d}}
trainer: {max_steps: 10, logger: {init_args: {save_dir: %s}}}
"""


def settings(lr=0.1, root="here/coco", workers=2, logs="runs") -> dict[str, str]:
    return settings_of(CONFIG % (lr, root, workers, logs), None)


def test_where_files_lie_and_how_they_are_loaded_may_differ():
    assert settings() == settings(root="/scratch/7/coco", workers=8, logs="elsewhere")
    assert settings() != settings(root="here/other") and settings()["sources of lit_blip2"]


def test_each_difference_is_named_with_its_ranks():
    others = [
        settings(),
        settings(lr=0.2) | {"torch": "1.0"},
        settings(),
        {k: v for k, v in settings().items() if k != "trainer.max_steps"},
    ]
    told = differing(others)
    assert "model.optimization.lr is 0.1 on ranks 0, 2, 3 and 0.2 on rank 1" in told
    assert "trainer.max_steps is 10 on ranks 0, 1, 2 and not set on rank 3" in told
    assert told.count(" is ") == 3 and "\n" not in told


def test_of_long_values_what_differs_is_shown():
    same = "{'class_path': 'lit_blip2.lit.callbacks.Checkpoints', 'init_args': {'every_n_steps': None, "
    told = differing([{"callbacks": f"[{same}'grace': {seconds}}}}}]"} for seconds in (30.0, 5.0)])
    assert "'grace': 30.0}}] on rank 0 and ..." in told and "'grace': 5.0}}] on rank 1" in told and len(told) < 200


def _checked(rank: int, others: list[dict[str, str]]) -> str:
    agreement.time.sleep = lambda _: None
    try:
        check_agreed(others[rank])
    except (ValueError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "started"


def test_ranks_that_differ_refuse_to_start_and_the_first_says_why(tmp_path):
    first, second, third = on_ranks(3, tmp_path, _checked, [settings(), settings(), settings(lr=0.2)])
    assert first.startswith("ValueError: the ranks of this run differ, so nothing is started: model.optimization.lr is")
    assert "0.2 on rank 2. Start each" in first and second == third == "SystemExit: 2"


def test_ranks_that_agree_start(tmp_path):
    assert on_ranks(2, tmp_path, _checked, [settings()] * 2) == ["started"] * 2


@pytest.mark.parametrize(("count", "named"), [(1, "rank 0"), (9, "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 1 more")])
def test_many_ranks_are_counted(count, named):
    assert named in differing([{"a": "1"}] * count + [{"a": "2"}])
