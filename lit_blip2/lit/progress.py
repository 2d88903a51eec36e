"""Where a run stands: at a step, of which everything follows, whatever Lightning has counted.

Lightning restores how many batches it had seen. That number is wrong as soon as `accumulate_grad_batches` changes, and
where a checkpoint was written in the middle of a step (an exception, a signal), whose gradients are lost: batches would
then be summed across two steps, and validations come at other steps. Here a batch is a function of the step, so all
counts follow from the step that the checkpoint stands at.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.config import Experiment, class_path, flat, from_text, unplaced
from lit_blip2.contents import DataError
from lit_blip2.terminal import one_line

LOOP = "epoch_loop"
# Arguments of data that decide nothing about the rows of a training step.
NO_ROWS = (
    "root", "images", "val", "test", "vqa_val", "vqa_test", "binding_val", "binding_test", "features", "num_workers",
    "eval_batch_size", "max_unreadable", "max_unknown_words",
)  # fmt: skip
# Arguments of a network that say where its files lie (signatures tell those apart) and how it is computed.
NO_TRAINING = ("name", "weights", "tokenizer", "dtype", "bits", "checkpointing")
INTERVALS = (
    "accumulate_grad_batches", "log_every_n_steps", "val_check_interval", "check_val_every_n_epoch",
    "limit_train_batches", "max_epochs",
)  # fmt: skip
RESTORED = ("lr", "betas", "weight_decay", "lr_scale", "layer_decay")  # arguments that an optimiser's state holds


def epoch_batches(trainer: L.Trainer) -> int:
    """Micro-batches after which Lightning counts an epoch: those of the whole run, unless they are limited."""
    limit = trainer.limit_train_batches
    return limit if isinstance(limit, int) else int(limit * trainer.max_steps * trainer.accumulate_grad_batches)


def check_intervals(trainer: Any) -> None:
    """Raises ValueError for numbers of a Trainer, or of its settings, by which nothing is trained, or which nothing can
    come every so many of. None is a default, and a validation may come by the clock: those are not looked at."""
    given = {name: getattr(trainer, name, None) for name in INTERVALS}
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float)}
    numbers = {name: value for name, value in numbers.items() if (name, value) != ("max_epochs", -1)}  # unlimited
    if small := [f"trainer.{name}={value}" for name, value in numbers.items() if value <= 0]:
        raise ValueError(f"{', '.join(small)}: training needs numbers above 0; leave one out for its default")


def check_counts(trainer: L.Trainer) -> None:
    """Warn where a run would end after its last validation: its metrics would not be those of its checkpoint.

    Raises ValueError where an epoch would end in the middle of a step, which would be taken with a part of its batch.
    """
    accumulate, interval = trainer.accumulate_grad_batches, val_interval(trainer)
    if epoch_batches(trainer) % accumulate and not trainer.fast_dev_run:
        raise ValueError(
            f"trainer.limit_train_batches={trainer.limit_train_batches} ends in the middle of a step of {accumulate} "
            "micro-batches: make it a multiple of trainer.accumulate_grad_batches"
        )
    batches = trainer.max_steps * accumulate
    if isinstance(interval, int) and batches % interval and trainer.enable_validation:
        warnings.warn(
            f"trainer.val_check_interval={interval} does not divide the run's {batches} batches: what comes after "
            "the last validation has no metrics. Set it to a divisor.",
            stacklevel=3,
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, the settings that a checkpoint's run and this one both have, and that differ, named by their places,
    such as data.vqa_val.questions. Where one side has null or a list in a place above, it is compared with that."""
    pairs = {name: (_at(before, name), _at(now, name)) for name in sorted(before.keys() | now.keys())}
    return [f"{name} {was}, here {own}" for name, (was, own) in pairs.items() if None not in (was, own) and was != own]


def _at(settings: Mapping[str, Any], name: str) -> str | None:
    """A setting, or what stands in a place above it, as a text; None where there is neither."""
    place = name
    while place and place not in settings:
        place = place.rpartition(".")[0]
    below = {key: value for key, value in settings.items() if key.startswith(f"{name}.")}
    return str(settings[place]) if place else str(below) if below else None


def _check_same(file: Any, before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """Raises ValueError where settings of a checkpoint's run, of those that this one knows too, have changed."""
    if other := _changed(before, now):
        raise ValueError(
            f"{file} was trained with other settings, {what}: {'; '.join(other)}. Use those settings, or start from "
            "its weights by --model.init_from"
        )


def _rows_by(experiment: Experiment, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of data that decide which rows a step has. own: values that this run's data module really has."""
    settings = experiment.data | (own or {})
    if name := class_path(experiment.settings.get("data")):
        settings["class"] = name
    return flat(unplaced(settings, NO_ROWS), "data")


def _trained_by(experiment: Experiment) -> dict[str, Any]:
    """The settings of the network that decide how it trains. Of timm's arguments only dropouts: the rest is compared by
    the network that it makes (`LitBLIP2.check_settings`), because a default may be spelled out."""
    own = flat(unplaced(experiment.net, NO_TRAINING), "model.net")
    drops = {name: value for name, value in own.items() if ".model_args." in name and "drop" in name and value}
    own = {name: value for name, value in own.items() if ".model_args" not in name}
    return own | {"model.net.vision.model_args": drops}


def check_place(trainer: L.Trainer, batch: Mapping[str, Any], micro_batch: int) -> None:
    """Raises RuntimeError for a batch that is not the one that the step under way wants next."""
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
    """Raises ValueError for a checkpoint that this training cannot go on from; warns where nothing is left to do.

    config: this run's, where nobody has named the checkpoint: on SLURM, Lightning takes any hpc_ckpt_N.ckpt that lies
    in the working folder.
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
    step = checkpoint["global_step"]
    if step >= trainer.max_steps and checkpoint.get("validated_step", step) == step:
        warnings.warn(
            f"{file} stands at step {step} of {trainer.max_steps}: nothing is trained or validated (`validate "
            "--ckpt_path` does the latter)",
            stacklevel=3,
        )


def _check_loops(given: Any, own: Any, what: str) -> None:
    """Raises DataError for counts of a checkpoint that are none, by those of this training's loop."""
    if type(given) is not type(own):
        raise DataError(f"{what} is {one_line(given, 60)}, where a {type(own).__name__} is wanted: it is damaged")
    for name, each in own.items() if isinstance(own, dict) else ():
        _check_loops(given.get(name), each, f"{what}.{name}")


def _check_settings(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Raises ValueError where a checkpoint's run had other settings of its optimiser, its network or its rows than this
    one; says where the schedule changes, which may."""
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
    """The settings of the optimiser and the number of steps, where they are told."""
    return experiment.optimization | {k: v for k, v in experiment.trainer.items() if k == "max_steps"}


def stand_at(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Let the counts of a checkpoint say that its steps were taken and nothing else; changed in place.

    A validation that comes after its step and was not made is made first, from its first batch. Lightning would look at
    the rest alone of one that was under way, leave out one that had not begun, and after the last step do nothing: for
    that one the trainer gets a step more, which `end_at` takes away again.
    """
    step, counts = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
    batches, size = step * trainer.accumulate_grad_batches, epoch_batches(trainer)
    epoch, place = ((batches - 1) // size, (batches - 1) % size + 1) if batches and size else (0, batches)
    again = _under_way(counts[f"{LOOP}.val_loop.batch_progress"])
    if (validated := checkpoint.get("validated_step")) is not None:
        again = validated < step and _is_due(trainer, batches, place, epoch)
    between = bool(batches) and place == size and not again  # two epochs
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
    else:  # one that was made up for leaves a batch counted as begun for ever: the next would start in its middle
        for each in (validation["total"], validation["current"]):
            each |= dict.fromkeys(each, each["ready"])


def _stand_at_epoch(trainer: L.Trainer, counts: dict[str, Any], epoch: int, between: bool) -> None:
    """Let an epoch be the one under way. between: all its batches were trained on; its end comes first, unless a hook
    of that end has written the checkpoint."""
    over = epoch + (between and counts["current"]["processed"] > epoch)
    for name in ("total", "current"):
        counts[name] = dict(ready=epoch + 1, started=epoch + 1, processed=over, completed=over)
    if between:  # Lightning's loop of batches then has nothing to do, and must be told so by hand, then and afterwards
        trainer.fit_loop.epoch_loop.val_loop._has_run = True
        trainer.callbacks.append(LambdaCallback(on_train_epoch_start=_begin_epoch))


def _begin_epoch(trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    """Let an epoch begin with its first batch."""
    trainer.fit_loop.epoch_loop.restarting = False


def end_at(trainer: L.Trainer, max_steps: int) -> None:
    """Let training end where it was to end."""
    trainer.fit_loop.epoch_loop.max_steps = max_steps


def _is_due(trainer: L.Trainer, batches: int, place: int, epoch: int) -> bool:
    """Whether a validation comes after so many micro-batches, `place` of them in the epoch under way."""
    interval, every = val_interval(trainer), trainer.check_val_every_n_epoch
    if not batches or not trainer.enable_validation or not isinstance(interval, int | float):
        return False
    if every is not None and (epoch + 1) % every:
        return False
    if isinstance(interval, int):
        return (batches if every is None else place) % interval == 0
    return place % max(1, int(epoch_batches(trainer) * interval)) == 0


def val_interval(trainer: L.Trainer) -> int | float | None:
    """trainer.val_check_interval; None where validations come by the clock, for Lightning does not set it then."""
    return getattr(trainer, "val_check_interval", None)


def _under_way(validation: Mapping[str, Any]) -> bool:
    """Whether a validation has begun and not looked at all its batches."""
    current = validation["current"]
    return current["ready"] > 0 and not (validation["is_last_batch"] and current["completed"] == current["ready"])
