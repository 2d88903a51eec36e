"""Curves, costs and config differences on cases worked by hand."""

import pytest

from lit_blip2.ablation.report.costs import cell_cost, sweep_cost
from lit_blip2.ablation.report.curves import changes, curve_metrics, curves, tracks, validating_steps
from lit_blip2.ablation.report.differences import ABSENT, config_differences, flat_differences
from lit_blip2.ablation.report.markdown import code, fence, number, plain, seconds
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.statistics import BETTER


def test_a_curve_is_the_mean_over_seeds(sweep):
    found = curves(read_sweep(sweep.write()), "stage2", "vqa/mean_over_types")
    assert [line.name for line in found] == ["itc=on,bridge=on", "itc=off,bridge=on", "itc=on,bridge=off"]
    assert found[0].steps == [260, 520, 780] and found[0].seeds == 3
    assert found[0].mean == pytest.approx([0.2, 0.4, 0.6]) and found[0].sd[2] == pytest.approx(0.02)


def test_settings_that_share_runs_share_a_curve(sweep):
    for seed in (0, 1, 2):
        sweep.validated(f"stage1/itc=on,seed={seed}", [{"step": 1, "loss/itc": seed, "other": 1}])
    read = read_sweep(sweep.write())
    assert validating_steps(read) == ["stage1", "stage2"] and curve_metrics(read, "stage1") == ["loss/itc"]
    (line,) = curves(read, "stage1", "loss/itc")
    assert (line.name, line.mean, line.sd) == ("itc=on (shared by 2)", [1.0], [1.0])
    assert line.setting == read.control == "itc=on,bridge=on"


def test_seeds_that_lag_behind_leave_shorter_spread(sweep):
    sweep.validated("stage2/itc=on,bridge=on,seed=0", [{"step": 260, "loss/lm": 1.0}, {"step": 260, "loss/lm": 3.0}])
    sweep.validated("stage2/itc=on,bridge=on,seed=1", [{"step": 260, "loss/lm": None}, {"step": 520, "loss/lm": 5.0}])
    sweep.validated("stage2/itc=on,bridge=on,seed=2", [])
    line = curves(read_sweep(sweep.write()), "stage2", "loss/lm")[0]
    assert (line.steps, line.mean, line.sd, line.seeds) == ([260, 520], [3.0, 5.0], [None, None], 1)
    again = [{"step": 260, "loss/lm": 1.0}, {"step": 260, "loss/lm": None}]  # the later one counts, finite or not
    sweep.validated("stage2/itc=on,bridge=on,seed=0", again)
    assert read_sweep(sweep.write()).validated("stage2/itc=on,bridge=on,seed=0", "loss/lm") == {}


def test_forgetting_goes_by_steps_that_have_both(sweep):
    curve = [{"step": 1, "loss/lm": 3.0}, {"step": 2, "loss/lm": 2.0, "vqa/mean_over_types": 0.5}]
    curve += [{"step": 3, "vqa/mean_over_types": 0.9}, {"step": 4, "loss/lm": 1.0, "vqa/mean_over_types": 0.4}]
    for seed in (0, 1, 2):
        sweep.validated(f"stage2/itc=on,bridge=on,seed={seed}", curve)
    track = tracks(read_sweep(sweep.write()), "stage2", "vqa/mean_over_types")[0]
    assert (track.loss, track.metric) == ([2.0, 1.0], pytest.approx([0.5, 0.4]))


def test_what_the_second_half_of_training_did(sweep):
    def curve(seed: int, fall: float) -> list[dict]:
        """Validations at 100 to 400; from 200 on the loss falls by about .3, the answers by about `fall`."""
        points = [(100, 3.0, 0.2), (200, 2.0, 0.5), (300, 1.8, 0.9), (400, 1.7 + seed / 100, 0.5 - fall + seed / 50)]
        return [{"step": s, "loss/lm": loss, "vqa/mean_over_types": value} for s, loss, value in points]

    for seed in (0, 1, 2):
        sweep.validated(f"stage2/itc=on,bridge=on,seed={seed}", curve(seed, 0.3))
        sweep.validated(f"stage2/itc=off,bridge=on,seed={seed}", curve(seed, 0.0))
        sweep.validated(f"stage2/itc=on,bridge=off,seed={seed}", curve(seed, 0.3)[:2])
    found = {each.name: each for each in changes(read_sweep(sweep.write()), "stage2", "vqa/mean_over_types")}
    assert found.keys() == {"itc=on,bridge=on", "itc=off,bridge=on"}  # two validations have no half
    falls, stays = found.values()
    assert (falls.middle, falls.last, falls.metric.estimate.seeds) == (200, 400, (3,))
    assert falls.metric.difference == pytest.approx(-0.28) and falls.loss.difference == pytest.approx(-0.29)
    assert falls.forgets and not stays.forgets and stays.loss.verdict == BETTER


def test_of_a_loss_on_text_more_is_forgetting(sweep):
    for seed in (0, 1, 2):
        points = [(1, 3.0, 0.1), (2, 2.0, 0.2), (4, 1.5 + seed / 100, 0.9 + seed / 50)]
        curve = [{"step": s, "loss/lm": loss, "llm/text_loss": value} for s, loss, value in points]
        sweep.validated(f"stage2/itc=on,bridge=on,seed={seed}", curve)
    (found,) = changes(read_sweep(sweep.write()), "stage2", "llm/text_loss")
    assert found.metric.difference > 0 and found.forgets


def test_a_run_that_lags_behind_is_left_out_of_the_change(sweep):
    curve = [{"step": s, "loss/lm": 1.0 / s, "vqa/mean_over_types": s / 9} for s in (2, 4, 6, 8)]
    for seed in (0, 1, 2):
        sweep.validated(f"stage2/itc=on,bridge=on,seed={seed}", curve if seed else curve[:3])
    first = changes(read_sweep(sweep.write()), "stage2", "vqa/mean_over_types")[0]
    assert (first.metric.estimate.seeds, first.middle, first.last) == ((2,), 4, 8)


def test_costs_of_a_cell(sweep):
    read = read_sweep(sweep.write())
    cost = cell_cost(read, read.cells[0])
    assert (cost.seconds, cost.shared_seconds, cost.steps, cost.peak_memory_gib) == (130.0, 100.0, 1460, 2.5)
    sweep.plan["cells"] = sweep.plan["cells"][:3]
    alone = read_sweep(sweep.write())
    assert cell_cost(alone, alone.cells[0]).shared_seconds == 0.0
    total = sweep_cost(read)
    assert (total.spent, total.without_sharing, total.not_spent) == (870.0, 1270.0, 400.0)


def test_unknown_costs_are_none(new_sweep):
    new_sweep.step("stage1/a")
    new_sweep.cell({}, 0, ["stage1/a"], {})
    read = read_sweep(new_sweep.write())
    cost = cell_cost(read, read.cells[0])
    assert (cost.seconds, cost.shared_seconds, cost.steps, cost.peak_memory_gib) == (None, None, None, None)


@pytest.mark.parametrize(
    ("control", "setting", "found"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, [("a.b", 1, 3)]),
        ({"a": {"b": 1}}, {"a": None}, [("a", {"b": 1}, None)]),
        ({"a": 1}, {}, [("a", 1, ABSENT)]),
        ({"a": [1, 2]}, {"a": [1, 3]}, [("a", [1, 2], [1, 3])]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}, {"c": 1}]}, [("a.0.b", 1, 2), ("a.1", ABSENT, {"c": 1})]),
        ({"a": True}, {"a": 1}, [("a", True, 1)]),
        (
            {"trainer": {"logger": {"name": "x"}, "max_steps": 1}},
            {"trainer": {"logger": {"name": "y"}, "max_steps": 1}},
            [],
        ),
        ({"trainer": {"logger_x": 1}}, {"trainer": {"logger_x": 2}}, [("trainer.logger_x", 1, 2)]),
    ],
)
def test_flat_differences(control, setting, found):
    assert list(flat_differences(control, setting)) == found


def test_a_difference_that_depends_on_the_seed_says_at_which(sweep):
    sweep.plan["steps"]["stage2/itc=on,bridge=off,seed=1"]["config"]["model"]["lr"] = 0.1
    found = config_differences(read_sweep(sweep.write()), "itc=on,bridge=off")
    assert [(d.key, d.control, d.setting, d.seeds) for d in found] == [
        ("model.bridge", True, False, (0, 1, 2)),
        ("model.lr", ABSENT, 0.1, (1,)),
    ]


def test_steps_that_only_one_side_has(sweep):
    for cell in sweep.plan["cells"]:
        if cell["labels"] == {"itc": "off", "bridge": "on"}:
            cell["steps"] = cell["steps"][1:]
    found = config_differences(read_sweep(sweep.write()), "itc=off,bridge=on")
    assert [(d.step, d.control, d.setting) for d in found] == [("stage1 fit", "runs", ABSENT)]


def test_text_is_no_markup():
    assert plain("a_b *c*\n<d>") == "a\\_b \\*c\\* \\<d\\>"
    assert code("a`b") == "`` a`b ``" and code("x") == "`x`"
    assert fence(["```", "x"]).splitlines()[0] == "````text"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (0.0, "0"), (1e-17, "0"), (0.6, "0.600"), (12.0, "12.0"), (123.4, "123"), (999.7, "1,000")]
    + [(12345.6, "12,346"), (0.00012, "1.20e-04"), (-0.5, "-0.500"), (3e9, "3.00e+09")],
)
def test_numbers_have_three_digits(value, said):
    assert number(value) == said


def test_durations_as_a_person_says_them():
    assert [seconds(s) for s in (None, 4.21, 59.99, 61, 3600)] == ["-", "4.21 s", "60.0 s", "1 min 1 s", "1 h 0 min"]


def test_signs():
    assert (number(0.5, sign=True), number(-0.5, sign=True), number(0.0, sign=True)) == ("+0.500", "-0.500", "0")
