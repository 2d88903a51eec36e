"""What an ablation expects, written down beforehand: a text, and comparisons that a report can decide.

    expect:
      text: Without stage 1 zero-shot answers collapse early in stage 2.
      comparisons:                                  # all of them are one family; labels not named are the control's
        - {metric: vqa/mean_over_types, better: {stage1: on}, than: {stage1: off}, by: .05}
        - {metric: vqa/mean_over_types, better: {stage1: on}, than: {stage1: off}, by: .1, at: 200}

by: the size that matters. If a report's interval excludes a difference so large, the comparison did not come true.
at: compares the metric as validated at this optimiser step of the last training that validates it; without `at`, the
metric that the cell ends with, one of `metrics`. Of a loss, smaller is better. A text alone needs no `text:`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StrictInt, StrictStr

from lit_blip2.ablation.spec.parsing import unknown
from lit_blip2.ablation.spec.values import Labels, Number


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError(f"must be above 0, not {value!r}")
    return value


class Expected(BaseModel):
    """One comparison; see above."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: StrictStr
    better: Labels
    than: Labels
    by: Annotated[Number, AfterValidator(_above_zero)]
    at: Annotated[StrictInt, AfterValidator(_above_zero)] | None = None


class Expectations(BaseModel):
    """All that an ablation expects."""

    model_config = ConfigDict(extra="forbid")
    text: StrictStr = ""
    comparisons: list[Expected] = []


def _expectations(given: Any) -> Any:
    return {"text": given} if isinstance(given, str) else given


Expect = Annotated[Expectations, BeforeValidator(_expectations)]


def expect_problems(
    expected: Sequence[Expected], metrics: Sequence[str], settings: Sequence[Mapping[str, str]]
) -> Iterator[str]:
    """Metrics and settings of comparisons that do not exist, one line each. The comparisons' labels are complete."""
    for place, each in enumerate(expected, 1):
        where = f"expect, comparison {place}:"
        if each.at is None and each.metric not in metrics:
            yield unknown(f"{where} of the metrics", each.metric, metrics)
        if each.better == each.than:
            yield f"{where} better and than are both {each.than}"
        yield from (
            f"{where} {side} is not among the cells" for side in (each.better, each.than) if side not in settings
        )
