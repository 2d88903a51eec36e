"""All metrics of all settings at a glance: a small chart, and a table with mean, standard deviation and n."""

from collections.abc import Sequence

from lit_blip2.ablation.report.baselines import baselines
from lit_blip2.ablation.report.markdown import code, number, table
from lit_blip2.ablation.report.plots.looks import looks
from lit_blip2.ablation.report.plots.metric import overview_figure
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.results import MetricResult, SettingResult
from lit_blip2.ablation.report.sections.words import mean, named
from lit_blip2.ablation.report.statistics import BETTER, WORSE

NAME = "overview"  # of its plot
TEXT = (
    "Mean over n seeds ± standard deviation. Better and worse are against the control, as each metric's table below "
    "shows; the rest is not shown to differ, or not known."
)


def overview_section(sweep: Sweep, results: Sequence[MetricResult], plots: Plots) -> str:
    """The section; empty if no metric is compared, or no setting is planned."""
    if not results or not results[0].settings:
        return ""
    across = list(zip(*(result.settings for result in results), strict=True))
    head = ["setting", "n", *(code(result.metric) for result in results)]
    parts = ["## Overview", table(head, map(_line, across), range(1, len(head))), TEXT]
    if drawn := [result for result in results if any(each.values for each in result.settings)]:
        told = [(result, baselines(sweep, result.metric)) for result in drawn]
        parts.insert(1, plots.show(NAME, "all metrics by setting", overview_figure, told, looks(sweep)))
    return "\n\n".join(parts)


def _line(across: Sequence[SettingResult]) -> list[str]:
    """One setting's row. n is the most seeds that any metric has; a metric with fewer says so."""
    n, seeds = max(each.summary.n for each in across), across[0].seeds
    return [named(across[0]), str(n) if n == seeds else f"{n} of {seeds}", *(_cell(each, n) for each in across)]


def _cell(result: SettingResult, most: int) -> str:
    found, verdict = result.summary, result.comparison.verdict if result.comparison else ""
    parts = [mean(result) + (f" ± {number(found.sd)}" if found.sd is not None else "")]
    parts += [f"n = {found.n}"] if 0 < found.n < most else []
    parts += dict.fromkeys(each.part for each in result.evaluated if each.share < 1)
    return ", ".join(parts + ([verdict] if verdict in (BETTER, WORSE) else []))
