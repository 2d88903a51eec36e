"""Resumes a run at the step of its checkpoint, whatever Lightning has counted.

Lightning restores how many batches it had seen. That number is wrong if `accumulate_grad_batches` changes. It is also
wrong if a checkpoint was written in the middle of a step (an exception, a signal), whose gradients are lost: batches
would be summed across two steps, and validations would come at other steps. In this package a step determines its
batches, so all counts are computed from the checkpoint's step.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.config import Experiment, class_path, flat, from_text, unplaced
from lit_blip2.contents import DataError
from lit_blip2.runs import is_at_end
from lit_blip2.terminal import one_line

LOOP = "epoch_loop"
# Data arguments that do not change which rows a training step has.
NO_ROWS = (
    "root", "images", "val", "test", "vqa_val", "vqa_test", "binding_val", "binding_test", "features", "num_workers",
    "eval_batch_size", "max_unreadable", "max_unknown_words",
)  # fmt: skip
# Network arguments that say where its files are (signatures compare their weights) or how it is computed.
NO_TRAINING = ("name", "weights", "tokenizer", "dtype", "bits", "checkpointing")
INTERVALS = (
    "accumulate_grad_batches", "log_every_n_steps", "val_check_interval", "check_val_every_n_epoch",
    "limit_train_batches", "max_epochs",
)  # fmt: skip
RESTORED = ("lr", "betas", "weight_decay", "lr_scale", "layer_decay")  # arguments that an optimiser's state holds


def epoch_batches(trainer: L.Trainer) -> int:
    """Micro-batches in what Lightning counts as an epoch: those of the whole run, unless limit_train_batches is set."""
    limit = trainer.limit_train_batches
    return limit if isinstance(limit, int) else int(limit * trainer.max_steps * trainer.accumulate_grad_batches)


def check_intervals(trainer: Any) -> None:
    """Raises ValueError if one of INTERVALS is 0 or negative, because nothing would be trained, or an interval would be
    empty. max_epochs=-1 is allowed. trainer: a Trainer, or its settings. None, which is a default, and intervals of
    time are not checked."""
    given = {name: getattr(trainer, name, None) for name in INTERVALS}
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float)}
    numbers = {name: value for name, value in numbers.items() if (name, value) != ("max_epochs", -1)}  # unlimited
    if small := [f"trainer.{name}={value}" for name, value in numbers.items() if value <= 0]:
        raise ValueError(f"{', '.join(small)}: training needs numbers above 0; leave one out for its default")


def check_counts(trainer: L.Trainer) -> None:
    """Warn if training continues after the last validation: its metrics would not be those of the final checkpoint.

    Raises ValueError if an epoch would end in the middle of a step, which would then see only a part of its batch.
    """
    accumulate, interval = trainer.accumulate_grad_batches, val_interval(trainer)
    if epoch_batches(trainer) % accumulate and not trainer.fast_dev_run:
        raise ValueError(
            f"trainer.limit_train_batches={trainer.limit_train_batches} ends in the middle of a step of {accumulate} "
            "micro-batches: make it a multiple of trainer.accumulate_grad_batches"
        )
    batches = trainer.max_steps * accumulate
    if isinstance(interval, int) and interval > batches and trainer.enable_validation:
        warnings.warn(
            f"trainer.val_check_interval={interval} is more than the run's {batches} batches: nothing is validated. "
            "Set it to a divisor.",
            stacklevel=3,
        )
    elif isinstance(interval, int) and batches % interval and trainer.enable_validation:
        warnings.warn(
            f"trainer.val_check_interval={interval} does not divide the run's {batches} batches: what comes after "
            "the last validation has no metrics. Set it to a divisor.",
            stacklevel=3,
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Texts on the settings that both runs have and that differ, named by their keys, such as data.vqa_val.questions.
    If one side has null or a list at a parent key, that value is compared."""
    pairs = {name: (_at(before, name), _at(now, name)) for name in sorted(before.keys() | now.keys())}
    return [f"{name} {was}, here {own}" for name, (was, own) in pairs.items() if None not in (was, own) and was != own]


def _at(settings: Mapping[str, Any], name: str) -> str | None:
    """The value of a setting, or else of its nearest parent key, or else of its child keys, as text; None without
    any."""
    place = name
    while place and place not in settings:
        place = place.rpartition(".")[0]
    below = {key: value for key, value in settings.items() if key.startswith(f"{name}.")}
    return str(settings[place]) if place else str(below) if below else None


def _check_same(file: Any, before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises ValueError if settings that both a checkpoint's run and this one have differ."""
    if other := _changed(before, now):
        raise ValueError(
            f"{file} was trained with other settings, {what}: {'; '.join(other)}. Use those settings, or start from "
            "its weights by --model.init_from"
        )


def _rows_by(experiment: Experiment, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The data settings that decide which rows a step has. own: values of this run's data module, which take
    precedence."""
    settings = experiment.data | (own or {})
    if name := class_path(experiment.settings.get("data")):
        settings["class"] = name
    return flat(unplaced(settings, NO_ROWS), "data")


def _trained_by(experiment: Experiment) -> dict[str, Any]:
    """The network settings that decide how it trains. Of timm's arguments only dropouts are included. For the others
    `LitBLIP2.check_settings` compares the networks that they make, because a default may be spelled out."""
    own = flat(unplaced(experiment.net, NO_TRAINING), "model.net")
    drops = {name: value for name, value in own.items() if ".model_args." in name and "drop" in name and value}
    own = {name: value for name, value in own.items() if ".model_args" not in name}
    return own | {"model.net.vision.model_args": drops}


def check_place(trainer: L.Trainer, batch: Mapping[str, Any], micro_batch: int) -> None:
    """Raises RuntimeError if a batch is not the next one of the current step."""
    accumulate = trainer.accumulate_grad_batches
    wanted = trainer.global_step, (micro_batch, accumulate)
    given = batch["step"], batch.get("micro_batch", wanted[1])
    if given != wanted:
        raise RuntimeError(
            f"the batch given is that of step {given[0]}, micro-batch {given[1][0]} of {given[1][1]}, and training is "
            f"at step {wanted[0]}, micro-batch {micro_batch} of {accumulate}: set trainer.accumulate_grad_batches for "
            "the whole run and leave out callbacks that change it"
        )


def check_whole(trainer: L.Trainer, checkpoint: Mapping[str, Any], config: str | None) -> None:
    """Raises ValueError if training cannot resume from a checkpoint; warns if nothing is left to do.

    config: this run's configuration if nobody has named the checkpoint, else None. On SLURM, Lightning takes any
    hpc_ckpt_N.ckpt in the working folder.
    """
    file = trainer.ckpt_path
    if missing := [name for name in ("optimizer_states", "lr_schedulers", "loops") if not checkpoint.get(name)]:
        raise ValueError(
            f"{file} holds weights and no {', '.join(missing)}: training cannot go on from it, start from its weights "
            "by --model.init_from"
        )
    _check_loops(checkpoint["loops"].get("fit_loop"), trainer.fit_loop.state_dict(), f"{file}: loops.fit_loop")
    if config and checkpoint.get("config") != config:
        raise ValueError(
            f"{file} lies where a requeued run looks for its checkpoint, and is that of another run: remove it, or "
            "give each run a --trainer.default_root_dir of its own"
        )
    if "EMA" in checkpoint.get("callbacks", {}) and "EMA" not in {each.state_key for each in trainer.callbacks}:
        raise ValueError(
            f"the weights in {file} are the averages of the callback EMA: resume with it in trainer.callbacks, or "
            "start from them by --model.init_from"
        )
    _check_settings(trainer, checkpoint)
    if is_at_end(checkpoint, trainer.max_steps):
        warnings.warn(
            f"{file} stands at step {checkpoint['global_step']} of {trainer.max_steps}: nothing is trained or "
            "validated (`validate --ckpt_path` does the latter)",
            stacklevel=3,
        )


def _check_loops(given: Any, own: Any, what: str) -> None:
    """Raises DataError if a checkpoint's loop state differs in types or nesting from this training's (`own`)."""
    if type(given) is not type(own):
        raise DataError(f"{what} is {one_line(given, 60)}, where a {type(own).__name__} is wanted: it is damaged")
    for name, each in own.items() if isinstance(own, dict) else ():
        _check_loops(given.get(name), each, f"{what}.{name}")


def _check_settings(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raises ValueError if a checkpoint's run had other settings of its optimiser, its network or its rows than this
    one. Logs changes of the schedule, which are allowed."""
    file, module = trainer.ckpt_path, trainer.datamodule
    before, now = (from_text(each, str(file)) for each in (checkpoint.get("config"), trainer.lightning_module.config))
    restored = {name: value for name, value in before.optimization.items() if name in RESTORED}
    _check_same(file, restored, now.optimization, "which its optimiser goes on with")
    if other := _changed(_schedule(before), _schedule(now)):
        rank_zero_info(f"the schedule of {file} changes from its step on: {'; '.join(other)}")
    _check_same(
        file, _trained_by(before), _trained_by(now), "and the rest of the run would train otherwise than it began"
    )
    own = {name: getattr(module, name) for name in ("batch_size", "seed") if hasattr(module, name)}
    rows, ours = _rows_by(before), _rows_by(now, own)
    if "rows" in checkpoint and getattr(module, "pairs", None) is not None:
        rows["data"], ours["data"] = checkpoint["rows"], module.rows()
    _check_same(file, rows, ours, "by which other rows would come than in its run")


def _schedule(experiment: Experiment) -> dict[str, Any]:
    """The settings of the optimiser, and max_steps if it is set."""
    return experiment.optimization | {k: v for k, v in experiment.trainer.items() if k == "max_steps"}


def stand_at(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Set a checkpoint's loop counts to exactly its completed steps, in place.

    A validation that was due at this step and is missing is made first, from its first batch. Lightning would continue
    one that had begun with the remaining batches, leave out one that had not, and do nothing after the last step: for
    that case the trainer gets one more step, which `end_at` takes away again.
    """
    step, counts = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    batches, place, epoch = _counts(trainer, step)
    again = _under_way(counts[f"{LOOP}.val_loop.batch_progress"])
    if (validated := checkpoint.get("validated_step")) is not None:
        again = validated < step and _is_due(trainer, batches, place, epoch)
    between = bool(batches) and place == epoch_batches(trainer) and not again  # the checkpoint is between two epochs
    # Lightning counts a batch as completed after the hooks that save, and then counts it for the loggers.
    behind = 0 if again or between else 1
    counts[f"{LOOP}.batch_progress"] |= {
        name: dict(ready=number, started=number, processed=number, completed=number - behind)
        for name, number in (("total", batches), ("current", place))
    } | {"is_last_batch": False}
    counts[f"{LOOP}.state_dict"]["_batches_that_stepped"] = step if between else step - 1
    if batches:
        _stand_at_epoch(trainer, counts["epoch_progress"], epoch, between)
    validation = counts[f"{LOOP}.val_loop.batch_progress"]
    if again:
        validation |= {
            "total": dict(ready=1, started=1, processed=0, completed=0),
            "current": dict(ready=0, started=0, processed=0, completed=0),
        }
        trainer.fit_loop.epoch_loop.max_steps = max(trainer.max_steps, step + 1)
    else:  # a repeated validation leaves a batch counted as begun: the next validation would start in its middle
        for each in (validation["total"], validation["current"]):
            each |= dict.fromkeys(each, each["ready"])


def _stand_at_epoch(trainer: L.Trainer, counts: dict[str, Any], epoch: int, between: bool) -> None:
    """Make `epoch` the current one in Lightning's counts. between: all its batches are done. Its end then comes first,
    unless a hook of that end has written the checkpoint."""
    over = epoch + (between and counts["current"]["processed"] > epoch)
    for name in ("total", "current"):
        counts[name] = dict(ready=epoch + 1, started=epoch + 1, processed=over, completed=over)
    if between:  # Lightning's batch loop then has nothing to do: tell it so now, and at the start of each epoch
        trainer.fit_loop.epoch_loop.val_loop._has_run = True
        trainer.callbacks.append(LambdaCallback(on_train_epoch_start=_begin_epoch))


def _begin_epoch(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Start an epoch with its first batch."""
    trainer.fit_loop.epoch_loop.restarting = False


def end_at(trainer: L.Trainer, max_steps: int) -> None:
    """Set the step at which training ends."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def _counts(trainer: L.Trainer, step: int) -> tuple[int, int, int]:
    """Micro-batches until a step, how many of them are in the current epoch, and which epoch that is."""
    batches, size = step * trainer.accumulate_grad_batches, epoch_batches(trainer)
    epoch, place = ((batches - 1) // size, (batches - 1) % size + 1) if batches and size else (0, batches)
    return batches, place, epoch


def validation_is_due(trainer: L.Trainer, step: int) -> bool:
    """Whether a validation comes after a step; none does without anything to validate."""
    return sum(trainer.num_val_batches) > 0 and _is_due(trainer, *_counts(trainer, step))


def _is_due(trainer: L.Trainer, batches: int, place: int, epoch: int) -> bool:
    """Whether a validation is due after `batches` micro-batches, `place` of them in the current epoch."""
    interval, every = val_interval(trainer), trainer.check_val_every_n_epoch
    if not batches or not trainer.enable_validation or not isinstance(interval, int | float):
        return False
    if every is not None and (epoch + 1) % every:
        return False
    if isinstance(interval, int):
        return (batches if every is None else place) % interval == 0
    return place % max(1, int(epoch_batches(trainer) * interval)) == 0


def val_interval(trainer: L.Trainer) -> int | float | None:
    """trainer.val_check_interval; None if validations come by the clock, because Lightning does not set it then."""
    return getattr(trainer, "val_check_interval", None)


def _under_way(validation: Mapping[str, Any]) -> bool:
    """Whether a validation has begun and has batches left."""
    current = validation["current"]
    return current["ready"] > 0 and not (validation["is_last_batch"] and current["completed"] == current["ready"])
