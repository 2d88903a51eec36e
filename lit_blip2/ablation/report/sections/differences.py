"""What each setting changes in the resolved configs."""

import json
from typing import Any

from lit_blip2.ablation.report.differences import Difference, config_differences
from lit_blip2.ablation.report.markdown import code, plain, table
from lit_blip2.ablation.report.records import Sweep

HEAD = ["step", "key", "control", "setting", "seeds"]
SHOWN = 120  # characters of a config's value


def differences_section(sweep: Sweep) -> str:
    """A table for each setting but the control; empty without one."""
    others = [name for name in sweep.settings if name != sweep.control]
    if not others or sweep.control not in sweep.settings:
        return ""
    parts = [
        "## What each setting changes",
        f"Keys of the resolved configs that differ from the control's ({code(sweep.control)}) at the same seed, "
        "without `trainer.logger` and the folders of the sweep's own runs.",
    ]
    for name in others:
        lines = [_line(each) for each in config_differences(sweep, name)]
        parts += [f"### {code(name)}", table(HEAD, lines) if lines else "No key differs."]
    return "\n\n".join(parts)


def _line(found: Difference) -> list[str]:
    seeds = ", ".join(map(str, found.seeds))
    return [plain(found.step), code(found.key), _value(found.control), _value(found.setting), seeds]


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return code(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
