"""A step of an ablation's chain, and what can be wrong with the settings that a step is given."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr, model_validator

from lit_blip2.ablation.spec.parsing import unknown
from lit_blip2.config import strings

REFERENCE = "$"  # "$stage1" stands for the run folder of step stage1
FILES = {"fit": "an experiment's file", "with": "a file of settings"}  # what a setting may give beside keys
SEED_KEYS = {"seed_everything", "data.seed", "data.init_args.seed"}
LAYOUT = "must be {fit: FILE, with: FILE, set: {...}} or {test: STEP, with: FILE, set: {...}}"


class Step(BaseModel):
    """One command of the chain: `fit` of an experiment's file, or `test` of an earlier step's run.

    behind: `with` in YAML, a file of settings given after the experiment's, such as one of experiments/zero_shot.
    set: what a person would give as --key=value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    fit: StrictStr | None = None
    test: StrictStr | None = None
    behind: StrictStr | None = Field(None, alias="with")
    set: dict[StrictStr, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _check_layout(cls, given: Any) -> Any:
        """Reports a wrong layout in one line; pydantic would write one for each key."""
        keys = {*given} if isinstance(given, dict) else set()
        if len(keys & {"fit", "test"}) != 1 or keys - {"fit", "test", "with", "set"}:
            raise ValueError(f"{LAYOUT}, not {given!r}")
        return given

    @property
    def command(self) -> str:
        """fit or test."""
        return "fit" if self.test is None else "test"


def chain_problems(steps: Mapping[str, Step]) -> Iterator[str]:
    """Problems of the steps by themselves: what they test, and what they set."""
    for name, step in steps.items():
        fits = _fits_before(name, steps)
        if step.command == "test" and step.test not in fits:
            yield unknown(f"step {name}: test of", step.test, fits)
        elif step.command == "fit" and not step.fit:
            yield f"step {name}: fit must be an experiment's file, not {step.fit!r}"
        for key, value in step.set.items():
            yield from _key_problems(f"step {name}, set", key, key, value, fits)


def settings_problems(
    where: str, settings: Mapping[str, Any], steps: Mapping[str, Step], varies: bool = False
) -> Iterator[str]:
    """Problems of settings whose keys begin with a step's name, `stage1.model.net.itc`. where: what gives them. varies:
    whether only some cells have them."""
    for key, value in settings.items():
        name, _, rest = key.partition(".")
        if name not in steps or not rest:
            yield unknown(f"{where}: {key!r} must begin with a step:", name, steps)
        elif rest == "fit" and (tested := steps[name].test):
            yield f"{where}, {key}: {name} tests what {tested} has fitted, with its settings: set {tested}.fit"
        elif varies and f"{rest}.".startswith("trainer.logger."):
            yield f"{where}: {key} is no axis, what logs a run changes none of its numbers: give it with --set"
        elif rest in FILES and not (value and isinstance(value, str)):
            yield f"{where}, {key} must be {FILES[rest]}, not {value!r}"
        else:
            yield from _key_problems(where, key, rest, value, _fits_before(name, steps))


def _key_problems(where: str, key: str, rest: str, value: Any, fits: list[str]) -> Iterator[str]:
    """Problems of one key. rest: the key without its step. fits: the steps to whose runs the value may refer."""
    if rest in SEED_KEYS:
        yield f"{where}: {key} would be overwritten; seeds: is what varies the seed"
    if rest.startswith("trainer.logger.") and rest.endswith((".save_dir", ".name", ".version", ".run_name")):
        yield f"{where}: {key} would be overwritten; every run of a sweep logs into its own folder"
    for text in sorted(strings(value)):
        if text.startswith(REFERENCE) and text[1:] not in fits:
            yield unknown(f"{where}, {key}: the run of", text[1:], fits)


def _fits_before(step: str, steps: Mapping[str, Step]) -> list[str]:
    names = list(steps)
    return [name for name in names[: names.index(step)] if steps[name].command == "fit"]
