"""A setting's result in words, for every table that has a line for each setting."""

from lit_blip2.ablation.report.markdown import code, number
from lit_blip2.ablation.report.results import SettingResult


def named(result: SettingResult) -> str:
    """The setting's name, marked if it is the control."""
    return code(result.setting) + (" (control)" if result.is_control else "")


def mean(result: SettingResult) -> str:
    """The mean, or why there is none."""
    return reasons(result) if result.summary.mean is None else number(result.summary.mean)


def reasons(result: SettingResult) -> str:
    """Why seeds have no value."""
    if len(result.without) == 1 and not result.values:
        return next(iter(result.without))
    return ", ".join(f"{count} {reason}" for reason, count in result.without.items())
