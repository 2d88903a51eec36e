"""Baselines of a metric, beside the control: the same without the image, the language model reading a description in
place of the image, and chance. Tests measure them with the metric; a report draws them as lines."""

from dataclasses import dataclass

from lit_blip2.ablation.report.markdown import number
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.statistics import summarise
from lit_blip2.ablation.schema import is_finite

NO_IMAGE, TEXT_ALONE, CHANCE = "without the image", "language model reading a description", "chance"
MEASURED = {"vqa/mean_over_types": {"vqa/no_image": NO_IMAGE, "llm/text_qa": TEXT_ALONE}}  # metric -> baseline -> name
KNOWN = {"binding/itc_accuracy": 0.5, "binding/itm_accuracy": 0.5}  # chance that need not be measured


@dataclass(frozen=True)
class Baseline:
    """values: setting -> mean over its cells. They differ between settings if, for example, language models do."""

    name: str
    values: dict[str, float]

    @property
    def is_one(self) -> bool:
        """Whether the value is the same in all settings, as rounded in a report."""
        return len({number(value) for value in self.values.values()}) == 1


def baselines(sweep: Sweep, metric: str) -> list[Baseline]:
    """The baselines of a metric that the cells' records hold, and chance if it is known."""
    measured = MEASURED.get(metric, {}) | {f"{metric}_chance": CHANCE}
    found = [Baseline(name, _means(sweep, other)) for other, name in measured.items()]
    found += [Baseline(CHANCE, dict.fromkeys(sweep.settings, KNOWN[metric]))] if metric in KNOWN else []
    return [each for each in found if each.values]


def _means(sweep: Sweep, metric: str) -> dict[str, float]:
    found = {}
    for name, cells in sweep.settings.items():
        records = [sweep.records[cell.name] for cell in cells if cell.name in sweep.records]
        values = [value for record in records if is_finite(value := record.metrics.get(metric))]
        if values:
            found[name] = summarise(values).mean
    return found
