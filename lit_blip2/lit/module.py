"""LitBLIP2, the base of the LightningModules: logging of losses, evaluation, optimiser and checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor, nn

from lit_blip2 import words
from lit_blip2.allocator import give_back_freed_memory
from lit_blip2.checkpoint import check_fits, check_statistics, trainable_state
from lit_blip2.config import class_path, from_text, strings
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.module import PairData
from lit_blip2.evaluation import evaluated
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.predictions import PREDICTED, PREDICTIONS
from lit_blip2.evaluation.rules import (
    VALIDATED,
    Rules,
    differing,
    is_of_other_weights,
    kept_rules,
    of_validation,
    precisions_of,
    told,
    write_rules,
)
from lit_blip2.keyed import seed_dropout
from lit_blip2.lit.built import Built
from lit_blip2.lit.evaluators.evaluation import Evaluation, names_of
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.lit.evaluators.intervals import write_intervals
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.evaluators.tally import Tally
from lit_blip2.lit.evaluators.unfinished import predictions_made_of
from lit_blip2.lit.finite import check_finite, gradient_norm
from lit_blip2.lit.foreign_paths import forget_foreign_paths
from lit_blip2.lit.kept_optimizer import settle, take_up
from lit_blip2.lit.made_from import made_from
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.progress import (
    check_counts,
    check_intervals,
    check_place,
    check_whole,
    end_at,
    stand_at,
    validation_is_due,
)
from lit_blip2.model.plain import naming
from lit_blip2.network import as_asked_here, kept_settings, random_parts, settings_of_run
from lit_blip2.paths import run_all
from lit_blip2.settings import check_same
from lit_blip2.signature import norm


class LitBLIP2(L.LightningModule):
    """The model: a network (--model.net) under Lightning, with its losses, evaluation and optimiser.

    Subclasses compute the losses of a batch, and choose the evaluators: `representation` for stage 1's objectives,
    `generation` for the language model; None if absent.

    config: the resolved configuration as YAML, saved in every checkpoint; set by the command line.
    other_items: per-example values behind metrics that a callback logs; set by SceneScores.
    allow_different: names of settings that may differ from the checkpoint that a run starts from or evaluates.
    averages: averages of the trained weights, saved in their place in checkpoints; set by the callback EMA.
    allow: names that a checkpoint's configuration may use beside this run's own; set by the command line.
    latest: the last training batch as the data module gave it, and its losses.
    resumed: whether training continues from a checkpoint, so that `start` has nothing to do; set by the command line.
    validated_step: step of the last complete validation.
    max_steps: steps of a resumed training, which may first repeat a validation (see `stand_at`).
    kept: the checkpoint that training resumes from, until its optimisers are compared with this training's.
    built: a record of the network before training, to detect changes by callbacks.
    """

    def __init__(self, net: nn.Module, optimization: AdamWCosine, allow_different: Sequence[str] = ()):
        super().__init__()
        self.net, self.optimization, self.allow_different = net, optimization, allow_different
        self.representation: Representation | None = None
        self.generation: Generation | None = None
        self.strict_loading = False
        self.config, self.allow = "", []
        self.other_items: dict[str, Items] = {}
        self.averages: dict[str, Tensor] = {}
        self.resumed = False
        self.trained_steps = self.validated_step = 0
        self.max_steps: int | None = None
        self.kept: dict[str, Any] | None = None
        self.built: Built | None = None

    @_restricted_classmethod  # Lightning's: an error on an instance, whose weights it would not change
    def load_from_checkpoint(
        cls,  # noqa: N805
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        allow: Sequence[str] = (),
        **arguments: Any,
    ) -> Self:
        """The module of a run, with its frozen and trained weights, in training mode as Lightning leaves it.

        A `fit` of the module starts from these weights, not from the files that the run itself started from.

        Args:
            checkpoint_path: a checkpoint, or a run's folder, whose newest checkpoint is used.
            map_location: device of the module; None: the CPU.
            allow: names that its configuration may use beside this package's own (SECURITY.md).
            arguments: arguments of this class that replace the run's. A checkpoint that `python -m lit_blip2 fit` did
                not write needs net=... and optimization=...
        Raises:
            ValueError: the run belongs to another class, or does not fit the arguments.
            FileNotFoundError: weights are missing.
        """
        module, checkpoint = made_from(cls, checkpoint_path, allow, arguments)
        module.config, module.allow = checkpoint.get("config") or "", list(allow)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)  # missing keys are of frozen parts, as checked
        return module.to(map_location)

    def setup(self, stage: str) -> None:
        """Read frozen weights, tokenizers and the weights that training starts from.

        With cached features the image encoder is not loaded, but they must come from the same encoder. Raises
        FileNotFoundError with everything that is missing, and ValueError if nothing would be evaluated.
        """
        if stage == "fit":
            check_intervals(self.trainer)
            self.max_steps = None
            _check_callbacks(self.trainer.callbacks)
        limit = f"limit_{'val' if stage == 'validate' else TrainerFn(stage).value}_batches"
        if stage != "fit" and getattr(self.trainer, limit) == 0:
            raise ValueError(f"trainer.{limit}=0: nothing would be evaluated, set it to 1.0 for all batches")
        stores = list(getattr(self.trainer.datamodule, "stores", {}).values())
        steps = [lambda: self._check_features(stores[0])] if stores else []  # one encoder made all of them
        steps.append(lambda: self.net.load(vision=not stores))
        run_all(*steps, *([self.start] if stage == "fit" and not self.resumed else []))
        self._check_words()
        self._check_answers(stage)

    def _check_features(self, store: FeatureStore) -> None:
        """Raises ValueError if the cached features come from another encoder. Takes over the signature they record."""
        vision = self.net.vision
        if not vision.frozen:
            raise ValueError("data.features holds frozen features: set it to null, or model.net.vision.frozen to true")
        store.check(vision.fingerprint(store.made_by) | {"image_size": self.trainer.datamodule.image_size})
        vision.signature = vision.signature or store.signature

    def _check_words(self) -> None:
        """Log the share of words that each tokenizer does not know. Raises ValueError above the limit."""
        data = self.trainer.datamodule
        if isinstance(data, PairData):
            question = "{}" if self.generation is None else self.generation.question
            told = words.look(self.net, words.tables_of(data.pairs, *data.tables.values()), question)
            for each in words.summed(told):
                if each.known.share:
                    rank_zero_info(str(each))
            words.check_known(told, data.max_unknown_words)
        if self.generation is not None:
            for each in words.letters(self.net, (self.generation.net.prompt, self.generation.question)):
                rank_zero_warn(each)

    def _check_answers(self, stage: str) -> None:
        """Raises ValueError if captions or answers are to be evaluated and the language model cannot generate any."""
        if self.generation is None or (stage == "fit" and not self.trainer.limit_val_batches):
            return
        tables = getattr(self.trainer.datamodule, "tables", {}).values()
        reason = getattr(self.generation.net.language, "no_answers", None)
        if reason and any(task in table for table in tables for task in self.generation.tasks):
            raise ValueError(reason)

    def start(self) -> None:
        """Read the weights that training starts from; called by `setup` for a fit that is not resumed."""

    def on_fit_start(self) -> None:
        """Raises ValueError, or warns, if trainer settings do not fit training by steps, if the network has running
        statistics that checkpoints do not hold, or if a callback has changed the network."""
        check_counts(self.trainer)
        check_statistics(self.net)
        self.check_built()
        if self.kept is not None:
            take_up(self.trainer, self.kept)
            self.kept = None

    def on_train_start(self) -> None:
        self.check_built()

    def check_built(self) -> None:
        """Raises ValueError if the network was changed since it was built in a way that checkpoints do not record."""
        if self.built is not None:
            self.built.check(self)

    @property
    def allowed(self) -> list[str]:
        """Names that a checkpoint's configuration may use: those in `allow` and in this run's own configuration."""
        own = strings(from_text(self.config, "this run").settings)
        return [*self.allow, *(each for each in own if "." in each)]

    @property
    def evaluators(self) -> list[Representation | Generation]:
        """The evaluators that this module has."""
        return [each for each in (self.representation, self.generation) if each is not None]

    def looking(self, batch: dict[str, Any]) -> list[Representation | Generation]:
        """The evaluators of an evaluation batch. Images without captions go to the language model alone, if there is
        one: retrieval needs texts."""
        told = batch["task"] != "caption" or any(batch["captions"]) or self.generation is None
        return [each for each in self.evaluators if batch["task"] in each.tasks and (told or each is self.generation)]

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        try:
            with naming(names_of(batch)):
                for each in self.evaluators if batch["task"] == "train" else self.looking(batch):
                    each.prepare(batch)
            if batch["task"] == "train":
                self.given = dict(batch)  # on the host, without what a step adds
        except ValueError as error:
            if batch["task"] != "train":
                raise
            ids = batch["image_id"].tolist()
            raise ValueError(
                f"step {batch['step']}: {error}; the images of the batch are, in its order, {ids}"
            ) from error
        return batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        check_place(self.trainer, batch, micro_batch)
        seed_dropout(batch["seed"], batch["step"], micro_batch, self.trainer.global_rank)
        losses = self.losses(batch)
        self.latest = self.given, {name: loss.detach() for name, loss in losses.items()}
        self.log_dict({f"train/loss_{name}": loss for name, loss in self.latest[1].items()}, prog_bar=True)
        if self.logs_this_step() and micro_batch + 1 == self.trainer.accumulate_grad_batches:
            self.watch(losses)
        return losses["total"]

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Named losses of a training batch, scalars, with their weighted sum as `total`."""
        raise NotImplementedError

    def logs_this_step(self) -> bool:
        """Whether the current step is logged, as every `log_every_n_steps`-th is."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def watch(self, losses: dict[str, Tensor]) -> None:
        """Hook for subclasses: log more about the losses before backward, in the last micro-batch of a logged step."""

    def on_validation_epoch_start(self) -> None:
        if self.max_steps is not None:
            end_at(self.trainer, self.max_steps)
        evaluation, self.tally = self.evaluation(), Tally()
        for each in self.evaluators:
            each.begin(evaluation)

    def evaluation(self) -> Evaluation:
        """The current evaluation (command, folder, in-context examples), for the evaluators."""
        trainer, data, examples, made_of = self.trainer, self.trainer.datamodule, None, []
        command = trainer.state.fn.value
        folder = None if trainer.log_dir is None else Path(trainer.log_dir)  # collective
        if self.generation is not None and command in ("test", "predict"):
            if self.generation.in_context and data is None:
                raise ValueError("in_context examples are read by the data module: give datamodule=, not its loaders")
            examples = data.examples(self.generation.in_context) if self.generation.in_context else None
            weights = trainer.ckpt_path or str(norm(trainable_state(self).values()))
            if isinstance(data, PairData):
                made_of = predictions_made_of(self.config, weights, str(trainer.precision), data)
        return Evaluation(command, folder, trainer.is_global_zero, examples, made_of)

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        looking = self.looking(batch)
        with naming(names_of(batch)):
            found = [losses for each in looking if (losses := each.step(batch)) is not None]
        if looking:
            self.tally.add_rows(batch["task"], len(batch["image_id"]))
        for losses in found:
            self.tally.add_losses(losses.named, losses.count)
        if found and self.representation is not None:  # stage 2 alone has one loss
            self.tally.add_losses({"total": sum(losses.total for losses in found)}, len(batch["image_id"]))

    def on_validation_epoch_end(self) -> None:
        split = "test" if self.trainer.testing else "val"
        tables = getattr(self.trainer.datamodule, "tables", {}).get(split, {})
        if not (found := self.tally.metrics(split, tables)) and self.trainer.state.fn != TrainerFn.FITTING:
            raise ValueError(
                f"nothing was evaluated: the {split} split has {', '.join(tables) or 'no rows'}, and this model "
                f"evaluates {', '.join(dict.fromkeys(task for each in self.evaluators for task in each.tasks))}: "
                f"set data.{split} or data.vqa_{split}"
            )
        self.log_dict(found)
        for each in self.evaluators:
            self.log_dict(each.metrics())
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.validated_step = self.trainer.global_step
        folder = self.trainer.log_dir  # collective: all ranks must get here
        if self.trainer.state.fn == TrainerFn.VALIDATING and folder and self.trainer.is_global_zero:
            write_rules(Path(folder), of_validation(self.rules()), random=random_parts(self.net), name=VALIDATED)

    def on_validation_end(self) -> None:
        """Give back memory. Runs after the callbacks, so that the memory of their pictures is included."""
        give_back_freed_memory()

    def rules(self) -> Rules:
        """The rules of a test: settings of generation and scoring, and the precision."""
        own = {name: value for each in self.evaluators for name, value in each.rules().items()}
        return own | precisions_of(from_text(self.config, "this run"))

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Write predictions, metrics and intervals. Metrics are logged at the step of the checkpoint, not at 0.
        Predictions are written first, so that an error in a metric does not lose them."""
        folder = self.trainer.log_dir  # collective: all ranks must get here
        if self.generation is not None:
            self.generation.write(PREDICTIONS)
        if folder and self.trainer.is_global_zero:
            self.write_rules(Path(folder))
        self.on_validation_epoch_end()
        if self.representation is not None and folder and self.trainer.is_global_zero:
            self.representation.write(Path(folder, PREDICTIONS), append=self.generation is not None)
        self.log("step", float(self.trained_steps))
        items = {name: item for each in self.evaluators for name, item in each.items.items()}
        write_intervals(self.trainer, items | self.other_items)
        if self.generation is not None:
            self.generation.submit()
            self.generation.finish()
            if (share := evaluated.least_share("test", self.trainer.callback_metrics, self.generation.tasks)) < 1:
                rank_zero_warn(f"the submissions hold {100 * share:.3g} % of the test split: a server wants it whole")

    def write_rules(self, folder: Path) -> None:
        """Write the test's rules beside its metrics. Removes metrics of other rules or other weights from the folder.
        The command line gives a test by other rules its own folder, but a folder that the user names may hold both."""
        rules, weights = self.rules(), norm(trainable_state(self).values())
        if other := differing(kept_rules(folder), rules):
            rank_zero_warn(f"{folder} held a test by other rules, whose metrics are replaced: {told(other)}")
            (folder / evaluated.METRICS).unlink()
        elif is_of_other_weights(folder, weights):
            rank_zero_warn(f"{folder} held a test of other weights, whose metrics are replaced")
            (folder / evaluated.METRICS).unlink()
        write_rules(folder, rules, getattr(self.generation, "preset", None), random_parts(self.net), weights)

    def on_predict_start(self) -> None:
        if self.generation is None:
            raise ValueError(
                "predict writes captions and answers, without a language model there are none: use a stage-2 experiment"
            )

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> list[dict[str, Any]]:
        """Captions and answers of a batch, the rows of predict.jsonl, each with its image's file. predictions.jsonl,
        which `test` writes, is not changed."""
        before = len(self.generation.predictions)
        if batch["task"] in self.generation.tasks:
            with naming(names_of(batch)):
                self.generation.step(batch)
        made = self.generation.predictions[before:]
        for row, file in zip(made, batch.get("file", ())):
            row["image"] = file
        return made

    def on_predict_epoch_end(self) -> None:
        self.generation.write(PREDICTED)
        self.generation.finish()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.logs_this_step():
            schedule = self.optimization  # the rate of parameters that lr_scale does not name
            self.log("train/lr", schedule.lr * schedule.share(self.trainer.global_step, self.trainer.max_steps))
            self.log("train/grad_norm", gradient_norm(optimizer))

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser and the schedule per step. Lightning calls this once the network is on its device."""
        self.built = Built.of(self)
        steps = self.trainer.max_steps if self.max_steps is None else self.max_steps
        optimizer, schedule = self.optimization(self, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """Names of the metrics that `validate` (also within fit) or `test` logs, with * for parts that depend on data.

        tasks: the tasks (caption, vqa, binding) of the split. command: validate or test.
        """
        looked_at = [task for task in tasks if any(task in each.tasks for each in self.evaluators)]
        names = evaluated.names("test" if command == "test" else "val", looked_at)
        return names.union(*(each.metric_names(tasks, command) for each in self.evaluators))

    def settings(self) -> dict[str, Any]:
        """Settings that change the network's output and are not visible in the weights' shapes, and the image size."""
        data = None if self._trainer is None else self.trainer.datamodule
        size = getattr(data, "image_size", None)
        return settings_of_run(self.net, from_text(self.config, "this run").net, size)

    def check_settings(self, theirs: Mapping[str, Any], what: str, state: Iterable[str], goes_on: bool = False) -> None:
        """Raises ValueError if a checkpoint's settings differ from this run's, and logs differences that
        allow_different names. In a resumed training (`goes_on`) nothing may differ."""
        allowed, ours, way_out = self.allow_different, self.settings(), "Use those settings"
        if goes_on:
            allowed = ()
        else:
            way_out += ", or name what is changed on purpose by --model.allow_different=[NAME]"
        for each in check_same(as_asked_here(theirs, ours), ours, what, state, allowed, way_out):
            rank_zero_info(f"{what}: {each}, as allow_different says")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the trained weights, the configuration and the settings. Raises FloatingPointError if a number is not
        finite, and ValueError as `check_built` does."""
        self.check_built()
        checkpoint["state_dict"] = trainable_state(self) | self.averages
        checkpoint["config"], checkpoint["settings"] = self.config, self.settings()
        settle(self.trainer, checkpoint)
        check_finite(checkpoint)
        if getattr(data := self.trainer.datamodule, "pairs", None) is not None:
            checkpoint["rows"] = data.rows()
        checkpoint["validated_step"], step = self.validated_step, self.trainer.global_step
        checkpoint["validation_due"] = self.validated_step < step and validation_is_due(self.trainer, step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError with every missing, unexpected or misshapen weight, and with settings that differ."""
        file = Path((self._trainer and self.trainer.ckpt_path) or "checkpoint")
        self._check_fits(checkpoint, file)
        forget_foreign_paths(self.trainer.callbacks if self._trainer else [], checkpoint)
        theirs = kept_settings(checkpoint, file, self.allowed)
        goes_on = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        self.check_settings(theirs, "the checkpoint", checkpoint["state_dict"], goes_on)
        self.trained_steps = checkpoint["global_step"]
        self.validated_step = checkpoint.get("validated_step", self.trained_steps)
        if goes_on:
            check_whole(self.trainer, checkpoint, None if self.resumed else self.config)
            self.max_steps, self.kept = self.trainer.max_steps, checkpoint
            stand_at(self.trainer, checkpoint)

    def _check_fits(self, checkpoint: Mapping[str, Any], file: Path) -> None:
        try:
            check_fits(checkpoint["state_dict"], trainable_state(self), "the checkpoint")
        except ValueError as error:
            theirs = class_path(from_text(checkpoint.get("config"), str(file)).settings.get("model")).rpartition(".")[2]
            if theirs in ("", type(self).__name__):
                raise
            raise ValueError(
                f"{file} is a checkpoint of {theirs}, and this experiment's model is {type(self).__name__}: give a "
                "checkpoint of this experiment, or the config.yaml of the run that wrote it"
            ) from error


def _check_callbacks(callbacks: Iterable[L.Callback]) -> None:
    """Raises ValueError for callbacks of Lightning that do not work with this suite's checkpoints and steps."""
    for each in callbacks:
        name = type(each).__name__
        if isinstance(each, WeightAveraging | StochasticWeightAveraging):
            raise ValueError(
                f"{name} puts averages in the place of weights, and a checkpoint would hold the one as the other: use "
                "lit_blip2.lit.callbacks.EMA"
            )
        if isinstance(each, LearningRateFinder | BatchSizeFinder):
            raise ValueError(
                f"{name} trains for a trial before step 0, in which a batch is not that of its step. Compare rates by "
                "the sweep of ablations/search_lr.yaml; find a batch size with `params --memory`"
            )
