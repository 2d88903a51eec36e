"""The metrics: for each, a table of its settings against the control, and a plot.

A column of these tables is an entry of COLUMNS.
"""

from collections.abc import Sequence

from lit_blip2.ablation.report.baselines import baselines
from lit_blip2.ablation.report.effects import effects
from lit_blip2.ablation.report.markdown import NONE, code, number, table
from lit_blip2.ablation.report.plots.looks import looks
from lit_blip2.ablation.report.plots.metric import metric_figure
from lit_blip2.ablation.report.plots.paper import Plots
from lit_blip2.ablation.report.records import NOT_PLANNED, Sweep
from lit_blip2.ablation.report.results import MetricResult, Pair, SettingResult
from lit_blip2.ablation.report.sections.effects import WORDS, effects_tables
from lit_blip2.ablation.report.sections.method import COMPARED, METHOD, compared, family, speaks_of
from lit_blip2.ablation.report.sections.words import mean, named, reasons
from lit_blip2.ablation.spec.values import smaller_is_better

COLUMNS = ["setting", "mean", "sd", "n", *COMPARED]
NUMBERS = range(1, len(COLUMNS) - 1)  # columns that are aligned to the right


def metrics_section(sweep: Sweep, results: Sequence[MetricResult], plots: Plots) -> str:
    """All metrics; empty if none is compared."""
    crossed = [effects(sweep, result.metric) for result in results]
    parts = ["## Metrics", METHOD] if results else []
    parts += [WORDS] if any(interactions for _, interactions in crossed) else []
    for result, both in zip(results, crossed):
        told = (result, looks(sweep), baselines(sweep, result.metric))
        drawn = any(each.values for each in result.settings)
        plot = plots.show(f"metric.{result.metric}", result.metric, metric_figure, *told) if drawn else ""
        parts += [_metric(result), effects_tables(*both), plot]
    return "\n\n".join(part for part in parts if part)


def _metric(result: MetricResult) -> str:
    """One metric: its table, how its intervals were made, the pairs that were asked for."""
    parts = [f"### {code(result.metric)}", table(COLUMNS, map(_line, result.settings), NUMBERS)]
    parts += [each for each in (_evaluated(result), _rules(result), _how(result)) if each]
    if result.pairs:
        parts.append(table(["pairs asked for", *COMPARED], map(_pair_line, result.pairs), range(1, len(COMPARED))))
        parts.append(f"The first is better or worse than the second. {family(len(result.pairs))}")
    return "\n\n".join(parts)


def _evaluated(result: MetricResult) -> str:
    """The split that the metric was measured on, and how much of it; if settings differ, which setting has which."""
    settings: dict[str, list[str]] = {}
    for each in result.settings:
        for on in each.evaluated:
            settings.setdefault(str(on), []).append(code(each.setting))
    if len(settings) > 1:
        differing = "; ".join(f"{on}: {', '.join(names)}" for on, names in settings.items())
        return f"**Evaluated on different data:** {differing}."
    return "".join(f"Evaluated on {on}." for on in settings)


def _rules(result: MetricResult) -> str:
    """The rules of evaluation in which settings differ, and what each setting has."""
    parts = []
    for name in dict.fromkeys(name for each in result.settings for rules in each.rules for name in rules):
        settings: dict[str, dict[str, None]] = {}
        for each in result.settings:
            for rules in each.rules:
                if name in rules:
                    settings.setdefault(code(f"{name}={rules[name]}"), {})[code(each.setting)] = None
        if len(settings) > 1:
            parts += [f"{rule}: {', '.join(names)}" for rule, names in settings.items()]
    return f"**Evaluated by different rules:** {'; '.join(parts)}." if parts else ""


def _line(result: SettingResult) -> list[str]:
    start = [named(result), mean(result), number(result.summary.sd), _n(result)]
    if result.comparison is None:
        return [*start, *[NONE] * (len(COMPARED) - 1), "control" if result.is_control else NONE]
    return [*start, *compared(result.comparison)]


def _pair_line(pair: Pair) -> list[str]:
    return [f"{code(pair.first)} against {code(pair.second)}", *compared(pair.comparison)]


def _n(result: SettingResult) -> str:
    if not result.planned:
        return NONE
    missing = f"{result.summary.n} of {result.seeds} ({reasons(result)})"
    return str(result.seeds) if result.summary.n == result.seeds else missing


def _how(result: MetricResult) -> str:
    """How the intervals were made, in numbers, or why there are none."""
    better = f"{'Smaller' if smaller_is_better(result.metric) else 'Larger'} is better."
    if result.control is None:
        return f"{better} The sweep has no control: nothing is compared."
    if not result.control.planned:
        return f"{better} The control cannot have this metric ({NOT_PLANNED}): nothing is compared."
    if not result.comparisons:
        return f"{better} There is no other setting to compare with the control."
    return f"{better} {family(result.comparisons)} {speaks_of(result.compared)}"
