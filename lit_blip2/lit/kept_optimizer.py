"""Fits the optimiser and schedule states of a checkpoint to this training's, before the first step.

A fused optimiser step takes it for granted that a state has its parameter's size and memory layout. With another shape
or layout it would write to memory outside the state. The checkpoint provides the optimiser's running sums and the
schedule's step. This run provides the options (rates, decays, flags).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lit_blip2.contents import DataError
from lit_blip2.terminal import first_few, printable

STEP = "step"  # the scalar in a parameter's state
SUMS = ("exp_avg", "exp_avg_sq")  # Adam's moments, of the parameter's shape
GREATEST = "max_exp_avg_sq"  # with amsgrad
SCHEDULED = ("lr", "momentum", "betas")  # the group options that torch's schedules change
WAY_OUT = "start from its weights by --model.init_from"


def take_up(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Prepare a checkpoint's optimiser and schedule states for `load_state_dict`, in place.

    Group options that differ are replaced by this run's, with a warning. Raises ValueError if the groups differ from
    this training's, and DataError for a state that does not fit its parameter.
    """
    kept, schedules, step = (checkpoint[name] for name in ("optimizer_states", "lr_schedulers", "global_step"))
    _check_groups(trainer, kept)
    ours = [each.scheduler for each in trainer.lr_scheduler_configs]
    if not isinstance(schedules, list) or len(schedules) != len(ours):
        raise DataError(f"{trainer.ckpt_path}: lr_schedulers are not the states of {len(ours)} schedules: {WAY_OUT}")
    stepwise = _of_the_step(trainer)
    for place, schedule in enumerate(ours):
        if place in stepwise:
            schedules[place] = _at(schedule, step)
        else:
            _check_schedule(schedule, schedules[place], trainer.ckpt_path)
    for optimizer, state in zip(trainer.optimizers, kept):
        if step and isinstance(optimizer, Adam) and not state["state"]:
            raise DataError(f"{trainer.ckpt_path}: optimizer_states holds no state at step {step}: {WAY_OUT}")
        _check_states(optimizer, state, trainer.ckpt_path)
        rates = next((_at(each, step)["_last_lr"] for each in stepwise.values() if each.optimizer is optimizer), None)
        _set_options(optimizer, state, rates, trainer.ckpt_path)


def settle(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Set a checkpoint's schedules and learning rates to its step, in place. It may be written between an optimiser's
    step and its schedule's, and is the same file either way."""
    if not (checkpoint.get("optimizer_states") and checkpoint.get("lr_schedulers")):
        return  # a checkpoint of weights only
    for place, schedule in _of_the_step(trainer).items():
        state = checkpoint["lr_schedulers"][place] = _at(schedule, checkpoint["global_step"])
        for optimizer, kept in zip(trainer.optimizers, checkpoint["optimizer_states"]):
            if optimizer is schedule.optimizer:
                for group, rate in zip(kept["param_groups"], state["_last_lr"]):
                    group["lr"] = rate


def _of_the_step(trainer: L.Trainer) -> dict[int, LambdaLR]:
    """The schedules that depend on the step alone, by index."""
    return {
        place: each.scheduler
        for place, each in enumerate(trainer.lr_scheduler_configs)
        if type(each.scheduler) is LambdaLR and (each.interval, each.frequency) == ("step", 1)
    }


def _check_groups(trainer: L.Trainer, kept: Any) -> None:
    """Raises ValueError if a checkpoint's optimisers have other groups than this training's, and DataError if it is
    damaged."""
    try:
        sizes = [[len(dict(group)["params"]) for group in each["param_groups"]] for each in kept]
        keys = [[key for group in each["param_groups"] for key in group["params"]] for each in kept]
        if not all(
            isinstance(each["state"], dict) and len(set(found)) == len(found) for each, found in zip(kept, keys)
        ):
            raise ValueError("a parameter stands twice in it, or its state is no dict")
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{trainer.ckpt_path}: optimizer_states is no state of optimisers ({error}): it is damaged; {WAY_OUT}"
        ) from error
    own = [[len(group["params"]) for group in each.param_groups] for each in trainer.optimizers]
    if sizes != own:
        raise ValueError(
            f"{trainer.ckpt_path} holds the state of an optimiser whose groups have {_sizes(sizes)} parameters, here "
            f"they have {_sizes(own)}: a callback that adds a group must have done so in on_fit_start where a training "
            f"goes on; else {WAY_OUT}"
        )


def _sizes(optimizers: Sequence[Sequence[int]]) -> str:
    return "; ".join(", ".join(map(str, groups)) for groups in optimizers)


def _pairs(optimizer: Optimizer, kept: Mapping[str, Any]) -> Iterator[tuple[dict, nn.Parameter, Any]]:
    """(group, parameter, key of its state) of each parameter."""
    for own, group in zip(optimizer.param_groups, kept["param_groups"]):
        yield from ((own, parameter, key) for parameter, key in zip(own["params"], group["params"]))


def _check_states(optimizer: Optimizer, kept: dict[str, Any], file: Any) -> None:
    """Raises DataError for a state that this optimiser cannot use. Gives tensors of the parameter's shape the
    parameter's memory layout. A parameter that has had no gradient yet has no state."""
    known = {key for _, _, key in _pairs(optimizer, kept)}
    if spare := [key for key in kept["state"] if key not in known]:
        raise DataError(
            f"{file}: optimizer_states holds a state of parameter {spare[0]!r}, which no group has: {WAY_OUT}"
        )
    for group, parameter, key in _pairs(optimizer, kept):
        state = kept["state"].get(key, {})
        if wrong := _wrong(optimizer, group, parameter, state):
            raise DataError(f"{file}: optimizer_states, parameter {key}: {wrong} by this run's optimiser: {WAY_OUT}")
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = _laid_out_as(parameter, value)


def _wrong(optimizer: Optimizer, group: Mapping[str, Any], parameter: nn.Parameter, state: Any) -> str | None:
    """What is wrong with a parameter's state, or None. Shapes are not checked for optimisers that are neither Adam nor
    fused: torch's own operations check them."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return f"its state is {type(state).__name__}, where a dict of texts is wanted"
    if isinstance(optimizer, Adam) and state:
        wanted = {STEP, *SUMS, *([GREATEST] if group.get("amsgrad") else [])}
        if wanted != state.keys():
            return f"it has {first_few(sorted(state), 5)}, where {', '.join(sorted(wanted))} are wanted"
    elif not group.get("fused"):
        return None
    for name, value in state.items():
        if name == STEP:
            if not isinstance(value, Tensor | int | float) or (isinstance(value, Tensor) and not _is_number(value)):
                return f"{name} is {_shape(value)}, where one number is wanted"
        elif not isinstance(value, Tensor) or value.shape != parameter.shape or not _is_plain(value):
            return f"{name} is {_shape(value)}, where numbers of shape {tuple(parameter.shape)} are wanted"
    return None


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and value.dtype.is_floating_point


def _is_number(value: Tensor) -> bool:
    return value.ndim == 0 and value.layout is torch.strided and not value.dtype.is_complex and not value.is_quantized


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The same values in the parameter's memory layout."""
    wanted = torch.empty_like(parameter, device="meta")
    if value.stride() == wanted.stride():
        return value
    return torch.empty_strided(value.shape, wanted.stride(), dtype=value.dtype).copy_(value)


def _set_options(optimizer: Optimizer, kept: dict[str, Any], rates: list[float] | None, file: Any) -> None:
    """Put this run's options into a checkpoint's groups.

    rates: learning rates of the first groups, as the schedule has them at the checkpoint's step. None if the schedule
    does not depend on the step alone: then the checkpoint's values of SCHEDULED stay. An optimiser from outside torch
    may keep running sums among its options, so all of its options stay, if their types match.
    """
    foreign = not type(optimizer).__module__.startswith("torch.optim")
    changed: list[str] = []
    for place, (own, group) in enumerate(zip(optimizer.param_groups, kept["param_groups"])):
        stays = own.keys() if foreign else SCHEDULED if rates is None else {"lr"}
        for name in own.keys() & group.keys() - {"params"}:
            if name in stays:
                _check_kind(group[name], own[name], f"{file}: {name} of its optimiser's groups")
            elif repr(group[name]) != repr(own[name]):
                changed.append(f"{name} {group[name]!r}, here {own[name]!r}")
        taken = {name: value for name, value in group.items() if foreign or name in stays or name == "params"}
        rate = {"lr": rates[place]} if rates is not None and place < len(rates) else {}
        kept["param_groups"][place] = own | taken | rate
    if changed:
        told = printable(first_few(sorted(set(changed)), 5, "; "))
        rank_zero_warn(f"{file}: its optimiser had {told}: this run's are used")


def _at(schedule: LambdaLR, step: int) -> dict[str, Any]:
    """The state of a schedule that has reached a step."""
    rates = [base * share(step) for base, share in zip(schedule.base_lrs, schedule.lr_lambdas)]
    return schedule.state_dict() | {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}


def _check_schedule(schedule: LRScheduler, told: Any, file: Any) -> None:
    """Raises DataError if `told` is no state of a schedule: `load_state_dict` would set any attribute, even a
    method."""
    kind, told = type(schedule), told if isinstance(told, dict) else {None: told}
    if odd := [name for name in told if not isinstance(name, str) or callable(getattr(kind, name, None))]:
        raise DataError(f"{file}: lr_schedulers is no state of a {kind.__name__} (its {odd[0]!r}): {WAY_OUT}")


def _check_kind(given: Any, own: Any, what: str) -> None:
    """Raises DataError for an option of another type than this run's. An option that is None here may have any type: it
    may have been set during training."""
    numbers = (int, float, Tensor)
    same = own is None or type(given) is type(own)
    if isinstance(own, list | tuple):
        same = isinstance(given, list | tuple) and [type(each) for each in given] == [type(each) for each in own]
    elif isinstance(own, numbers) and not isinstance(own, bool):
        same = isinstance(given, numbers) and not isinstance(given, bool)
    if not same:
        raise DataError(f"{what} is a {type(given).__name__}, where this run's is {own!r}: {WAY_OUT}")
