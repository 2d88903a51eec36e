"""What a metric is held against beside the control: the same without the image, the language model that reads a
description in the image's place, and chance. Tests measure them beside the metric; a report draws them as lines."""

from dataclasses import dataclass

from lit_blip2.ablation.report.markdown import number
from lit_blip2.ablation.report.records import Sweep
from lit_blip2.ablation.report.statistics import summarise
from lit_blip2.ablation.schema import is_finite

NO_IMAGE, TEXT_ALONE, CHANCE = "without the image", "language model reading a description", "chance"
MEASURED = {"vqa/mean_over_types": {"vqa/no_image": NO_IMAGE, "llm/text_qa": TEXT_ALONE}}  # metric -> baseline -> name
KNOWN = {"binding/itc_accuracy": 0.5, "binding/itm_accuracy": 0.5}  # chance, where nothing need be measured


@dataclass(frozen=True)
class Baseline:
    """values: by setting, each the mean over its cells; it differs between settings where their language models do."""

    name: str
    values: dict[str, float]

    @property
    def is_one(self) -> bool:
        """Whether it is the same in all settings, as far as a report writes it."""
        return len({number(value) for value in self.values.values()}) == 1


def baselines(sweep: Sweep, metric: str) -> list[Baseline]:
    """Those of a metric that the cells' records tell, and chance where it is known."""
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
