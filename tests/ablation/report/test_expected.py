"""What came of what was expected, on sweeps written by hand: each outcome, and what leaves one open."""

import pytest
from scipy import stats

from lit_blip2.ablation.report.expected import outcomes
from lit_blip2.ablation.report.page import report_markdown
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.report.sections.expected import claim_in_short

ON, OFF = {"stage1": "on"}, {"stage1": "off"}
HIGH, LOW = [0.5, 0.51, 0.52, 0.49], [0.3, 0.31, 0.33, 0.29]


def expect(**changes) -> dict:
    return {"metric": "vqa/accuracy", "better": ON, "than": OFF, "by": 0.05} | changes


@pytest.fixture
def asked(new_sweep):
    """A sweep of stage1 on and off; values by setting, and what is expected."""

    def make(expected: list[dict], on=HIGH, off=LOW, metric: str = "vqa/accuracy"):
        new_sweep.plan.update(axes={"stage1": ["on", "off"]}, seeds=[0, 1, 2, 3], control=ON, metrics=[metric])
        new_sweep.plan["expected"] = expected
        for label, values in {"on": on, "off": off}.items():
            for seed, value in enumerate(values):
                run = f"stage2/stage1={label},seed={seed}"
                new_sweep.step(run, seconds=1.0)
                name = new_sweep.cell({"stage1": label}, seed, [run], {metric: run})
                if value is not None:
                    new_sweep.ended(name, **{metric: value})
        return new_sweep

    return make


@pytest.mark.parametrize(
    ("on", "off", "by", "said"),
    [
        (HIGH, LOW, 0.05, "came true"),
        (HIGH, LOW, 0.3, "did not come true: smaller than 0.3"),  # shown, and not as large
        (LOW, HIGH, 0.05, "did not come true: the opposite is shown"),
        (HIGH, [value + 0.001 for value in HIGH], 0.05, "did not come true: smaller than 0.05"),
        (HIGH, [0.3, 0.6, 0.5, 0.4], 0.05, "open, smallest detectable difference "),
        (HIGH[:1], LOW, 0.05, "open, too few seeds"),
        ([0.5] * 4, [0.25] * 4, 0.05, "open, no spread"),
        ([*HIGH[:3], None], LOW, 0.05, "open, 1 of 8 cells without a value (1 waiting)"),
    ],
)
def test_each_outcome(asked, on, off, by, said):
    (found,) = outcomes(read_sweep(asked([expect(by=by)], on, off).write()))
    assert found.verdict.startswith(said)
    if "without a value" in said:
        assert found.comparison.difference is None and found.comparison.p is None


def test_of_a_loss_smaller_is_better(asked):
    expected = [expect(metric="loss/lm"), expect(metric="loss/lm", better=OFF, than=ON)]
    found = outcomes(read_sweep(asked(expected, LOW, HIGH, "loss/lm").write()))
    assert [each.verdict for each in found] == ["came true", "did not come true: the opposite is shown"]


def test_in_short_it_names_the_labels_that_differ(asked):
    (found,) = outcomes(
        read_sweep(asked([expect(better=ON | {"llm": "t5"}, than=OFF | {"llm": "t5"}, at=200)]).write())
    )
    assert claim_in_short(found) == "`stage1=on` over `stage1=off` in `vqa/accuracy` at step 200"


def test_all_that_is_expected_is_one_family(asked, new_sweep):
    (alone,) = outcomes(read_sweep(asked([expect()]).write()))
    new_sweep.plan["expected"] = [expect(), expect(metric="nowhere")]
    first, second = outcomes(read_sweep(new_sweep.write()))
    test = stats.ttest_ind(HIGH, LOW, equal_var=False)
    assert alone.comparison.p == pytest.approx(test.pvalue) and first.comparison.p == pytest.approx(2 * test.pvalue)
    interval = test.confidence_interval(1 - 0.05 / 2)
    assert first.comparison.interval == pytest.approx((interval.low, interval.high))
    assert second.verdict == "open, 8 of 8 cells without a value (8 n/a)"


def test_a_step_of_training_is_looked_up_in_its_validations(asked):
    sweep = asked([expect(at=200), expect(at=300)])
    for label, values in {"on": HIGH, "off": LOW}.items():
        for seed, value in enumerate(values):
            points = [{"step": 100, "vqa/accuracy": 0.9}, {"step": 200, "vqa/accuracy": 1 - value}]
            sweep.validated(f"stage2/stage1={label},seed={seed}", points)
    early, later = outcomes(read_sweep(sweep.write()))
    assert early.comparison.difference == pytest.approx(sum(LOW) / 4 - sum(HIGH) / 4)
    assert early.verdict == "did not come true: the opposite is shown"
    assert later.verdict == "open, 8 of 8 cells without a value (8 missing)"


def test_a_cell_that_is_not_there_is_no_number(asked):
    (found,) = outcomes(read_sweep(asked([expect(than={"stage1": "maybe"})]).write()))
    assert found.comparison.half_width is None and found.verdict == "open, too few seeds"


def test_outcomes_are_the_report_s_first_lines(asked):
    sweep = asked([expect()])
    page = report_markdown(read_sweep(sweep.write()), "x", Plots())
    head, below = page.split("## Overview")
    (line,) = [line for line in head.splitlines() if line.startswith("- `vqa/accuracy` is better")]
    assert "**came true** (difference +0.198, " in line
    row = next(line for line in below.splitlines() if line.startswith("| `vqa/accuracy` is better"))
    assert "with `stage1=on` than with `stage1=off` (size that matters: 0.05) | +0.198 |" in row and row.endswith(
        "| came true |"
    )
    assert below.index("Expected beforehand") < below.index(row)
