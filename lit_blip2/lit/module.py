"""What the stages, and both at once, share as Lightning systems: features, losses to log, evaluation, the optimiser,
and lean checkpoints."""

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
from lit_blip2.config import from_text, strings
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.data.module import PairData
from lit_blip2.evaluation import evaluated
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.predictions import PREDICTIONS
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
)
from lit_blip2.model.plain import naming
from lit_blip2.network import as_asked_here, kept_settings, random_parts, settings_of_run
from lit_blip2.paths import run_all
from lit_blip2.settings import check_same
from lit_blip2.signature import norm


class LitBLIP2(L.LightningModule):
    """A stage's network under Lightning. Subclasses say how a batch becomes losses, and which of the two evaluators
    they have.

    representation: what prepares texts for stage 1's objectives, and evaluates them; or None.
    generation: the same for the language model; or None.
    config: the resolved configuration as YAML, set by the command line, kept in every checkpoint.
    other_items: what stands behind metrics that a callback logs, for their intervals; set by SceneScores.
    allow_different: settings in which a checkpoint that is started from, or evaluated, may differ.
    averages: of what trains, in its place in checkpoints; set by the callback EMA.
    allow: what a checkpoint's configuration may name beside this run's own names; set by the command line.
    latest: the training batch of the last forward as the host gave it, and its losses.
    resumed: training goes on from a checkpoint, which holds all that `start` would read; set by the command line.
    validated_step: of the training's last whole validation.
    max_steps: of training that goes on from a checkpoint, which may first make up for a validation (see `stand_at`).
    kept: that checkpoint, until its optimisers are compared with this training's.
    built: the network as it stands on its device, before callbacks may change it in training.
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

    @_restricted_classmethod  # Lightning's own: refused on an instance, which it would leave as it is
    def load_from_checkpoint(
        cls,  # noqa: N805
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        allow: Sequence[str] = (),
        **arguments: Any,
    ) -> Self:
        """A run's module, with its frozen weights and the trained ones, on `map_location`; in training mode, as
        Lightning leaves it. A fit goes on from these weights: what the run itself started from is left out.

        Args: checkpoint_path: a checkpoint, or a run's folder. allow: what its configuration may name beside this
        package's own (SECURITY.md). arguments: of this class, in the place of the run's; net=..., optimization=... for
        a checkpoint that was not written by `python -m lit_blip2 fit`.

        Raises ValueError for a run of another class, and for what does not fit; FileNotFoundError for missing weights.
        """
        module, checkpoint = made_from(cls, checkpoint_path, allow, arguments)
        module.config, module.allow = checkpoint.get("config") or "", list(allow)
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)  # what is missing is frozen, and was checked
        return module.to(map_location)

    def setup(self, stage: str) -> None:
        """Read frozen weights and tokenizers from disk, and what training starts from. Cached features need no image
        encoder, but must come from the same one. Raises FileNotFoundError with all that is missing, and ValueError
        where nothing would be evaluated."""
        if stage == "fit":
            check_intervals(self.trainer)
            self.max_steps = None
            _check_callbacks(self.trainer.callbacks)
        limit = f"limit_{'val' if stage == 'validate' else TrainerFn(stage).value}_batches"
        if stage != "fit" and getattr(self.trainer, limit) == 0:
            raise ValueError(f"trainer.{limit}=0: nothing would be evaluated, set it to 1.0 for all batches")
        stores = list(getattr(self.trainer.datamodule, "stores", {}).values())
        steps = [lambda: self._check_features(stores[0])] if stores else []  # all of them were made by the same
        steps.append(lambda: self.net.load(vision=not stores))
        run_all(*steps, *([self.start] if stage == "fit" and not self.resumed else []))
        self._check_words()
        self._check_answers(stage)

    def _check_features(self, store: FeatureStore) -> None:
        """Raises ValueError where cached features are not the encoder's; they tell the signature of its weights."""
        vision = self.net.vision
        if not vision.frozen:
            raise ValueError("data.features holds frozen features: set it to null, or model.net.vision.frozen to true")
        store.check(vision.fingerprint(store.made_by) | {"image_size": self.trainer.datamodule.image_size})
        vision.signature = vision.signature or store.signature

    def _check_words(self) -> None:
        """Say which share of the words is unknown to whom, if any. Raises ValueError where it is above the limit."""
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
        """Raises ValueError where captions or answers are to be evaluated and the language model can make none."""
        if self.generation is None or (stage == "fit" and not self.trainer.limit_val_batches):
            return
        tables = getattr(self.trainer.datamodule, "tables", {}).values()
        reason = getattr(self.generation.net.language, "no_answers", None)
        if reason and any(task in table for table in tables for task in self.generation.tasks):
            raise ValueError(reason)

    def start(self) -> None:
        """Put the Q-Former where training starts from."""

    def on_fit_start(self) -> None:
        """Raises ValueError, or warns, where Lightning's counts do not suit the steps, or a network's statistics a
        checkpoint, or where a callback has changed what no checkpoint would tell."""
        check_counts(self.trainer)
        check_statistics(self.net)
        self.check_built()
        if self.kept is not None:
            take_up(self.trainer, self.kept)
            self.kept = None

    def on_train_start(self) -> None:
        self.check_built()

    def check_built(self) -> None:
        """Raises ValueError where the network was changed since then in a way that no checkpoint would tell."""
        if self.built is not None:
            self.built.check(self)

    @property
    def allowed(self) -> list[str]:
        """What a checkpoint's configuration may name: `allow`, and what this run's own configuration names."""
        own = strings(from_text(self.config, "this run").settings)
        return [*self.allow, *(each for each in own if "." in each)]

    @property
    def evaluators(self) -> list[Representation | Generation]:
        """Those that there are."""
        return [each for each in (self.representation, self.generation) if each is not None]

    def looking(self, batch: dict[str, Any]) -> list[Representation | Generation]:
        """The evaluators that look at an evaluation batch. Images without captions are left to the language model, if
        there is one: without texts there is nothing to retrieve."""
        told = batch["task"] != "caption" or any(batch["captions"]) or self.generation is None
        return [each for each in self.evaluators if batch["task"] in each.tasks and (told or each is self.generation)]

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        try:
            with naming(names_of(batch)):
                for each in self.evaluators if batch["task"] == "train" else self.looking(batch):
                    each.prepare(batch)
            if batch["task"] == "train":
                self.given = dict(batch)  # on the host, and without what a step adds
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
        """Named losses of a training batch, their weighted sum as `total`."""
        raise NotImplementedError

    def logs_this_step(self) -> bool:
        """Whether the step under way is one of every `log_every_n_steps`."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def watch(self, losses: dict[str, Tensor]) -> None:
        """What a subclass has to log of the losses before their backward, in the last micro-batch of such a step."""

    def on_validation_epoch_start(self) -> None:
        if self.max_steps is not None:
            end_at(self.trainer, self.max_steps)
        evaluation, self.tally = self.evaluation(), Tally()
        for each in self.evaluators:
            each.begin(evaluation)

    def evaluation(self) -> Evaluation:
        """What evaluators must know of the evaluation under way."""
        trainer, data, examples, made_of = self.trainer, self.trainer.datamodule, None, []
        command = trainer.state.fn.value
        folder = None if trainer.log_dir is None else Path(trainer.log_dir)  # log_dir asks all ranks
        if self.generation is not None and command in ("test", "predict"):
            examples = data.examples(self.generation.in_context) if self.generation.in_context else None
            weights = trainer.ckpt_path or str(norm(trainable_state(self).values()))
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
        if found and self.representation is not None:  # without it there is one loss
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
        folder = self.trainer.log_dir  # asks all ranks, so it comes before any of them leaves
        if self.trainer.state.fn == TrainerFn.VALIDATING and folder and self.trainer.is_global_zero:
            write_rules(Path(folder), of_validation(self.rules()), random=random_parts(self.net), name=VALIDATED)

    def on_validation_end(self) -> None:
        """After the callbacks, so that it is the end of their pictures too."""
        give_back_freed_memory()

    def rules(self) -> Rules:
        """Those that a test's metrics stand under."""
        own = {name: value for each in self.evaluators for name, value in each.rules().items()}
        return own | precisions_of(from_text(self.config, "this run"))

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Test metrics stand in TensorBoard at the step that the checkpoint had reached, not at 0. Predictions are
        written first: what no metric can take is not lost."""
        folder = self.trainer.log_dir  # asks all ranks, so it comes before any of them leaves
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
        """Leave a test's rules beside its metrics, and no metrics by other rules or of other weights among them. The
        command line gives such a test a folder of its own; this is for a folder that the user names."""
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
        """Captions and answers of a batch, as they stand in predict.jsonl; a test's, in predictions.jsonl, stay."""
        before = len(self.generation.predictions)
        if batch["task"] in self.generation.tasks:
            with naming(names_of(batch)):
                self.generation.step(batch)
        return self.generation.predictions[before:]

    def on_predict_epoch_end(self) -> None:
        self.generation.write("predict.jsonl")
        self.generation.finish()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.logs_this_step():
            schedule = self.optimization  # of parameters that lr_scale does not name
            self.log("train/lr", schedule.lr * schedule.share(self.trainer.global_step, self.trainer.max_steps))
            self.log("train/grad_norm", gradient_norm(optimizer))

    def configure_optimizers(self) -> dict[str, Any]:
        """Called where the network stands on its device, and before `on_fit_start`."""
        self.built = Built.of(self)
        steps = self.trainer.max_steps if self.max_steps is None else self.max_steps
        optimizer, schedule = self.optimization(self, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """Names, with * for a part that the data decide, of what `validate` (within fit too) or `test` logs.

        Args: the data module's tasks (caption, vqa, binding) of the split; the command.
        """
        looked_at = [task for task in tasks if any(task in each.tasks for each in self.evaluators)]
        names = evaluated.names("test" if command == "test" else "val", looked_at)
        return names.union(*(each.metric_names(tasks, command) for each in self.evaluators))

    def settings(self) -> dict[str, Any]:
        """What of this run's network changes its function and no shape, and how large it sees images."""
        data = None if self._trainer is None else self.trainer.datamodule
        size = getattr(data, "image_size", None)
        return settings_of_run(self.net, from_text(self.config, "this run").net, size)

    def check_settings(self, theirs: Mapping[str, Any], what: str, state: Iterable[str], goes_on: bool = False) -> None:
        """Raises ValueError where a checkpoint's settings are not this run's; what may differ is told. Training that
        goes on where it stopped may differ in nothing."""
        allowed, ours, way_out = self.allow_different, self.settings(), "Use those settings"
        if goes_on:
            allowed = ()
        else:
            way_out += ", or name what is changed on purpose by --model.allow_different=[NAME]"
        for each in check_same(as_asked_here(theirs, ours), ours, what, state, allowed, way_out):
            rank_zero_info(f"{what}: {each}, as allow_different says")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains, the config, and the settings that shapes do not show. Raises FloatingPointError where a
        number is not finite, and ValueError as `check_built` does."""
        self.check_built()
        checkpoint["state_dict"] = trainable_state(self) | self.averages
        checkpoint["config"], checkpoint["settings"] = self.config, self.settings()
        settle(self.trainer, checkpoint)
        check_finite(checkpoint)
        if getattr(data := self.trainer.datamodule, "pairs", None) is not None:
            checkpoint["rows"] = data.rows()
        checkpoint["validated_step"] = self.validated_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError naming every missing, unexpected or misshapen weight, and settings that differ."""
        check_fits(checkpoint["state_dict"], trainable_state(self), "the checkpoint")
        file = Path((self._trainer and self.trainer.ckpt_path) or "checkpoint")
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


def _check_callbacks(callbacks: Iterable[L.Callback]) -> None:
    """Raises ValueError for those of Lightning's that would not do here what they promise."""
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
