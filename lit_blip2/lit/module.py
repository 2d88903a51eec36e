"""What the stages, and both at once, share as Lightning systems: features, losses to log, evaluation, the optimiser,
and lean checkpoints."""

import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_blip2.checkpoint import check_fits, trainable_state
from lit_blip2.evaluation.items import Items
from lit_blip2.keyed import seed_dropout
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.lit.evaluators.intervals import write_intervals
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.paths import run_all


class LitBLIP2(L.LightningModule):
    """A stage's network under Lightning. Subclasses say how a batch becomes losses, and which of the two parts below
    they have.

    representation: what prepares texts for stage 1's objectives, and evaluates them; or None.
    generation: the same for the language model; or None.
    config: the resolved configuration as YAML, set by the command line, kept in every checkpoint.
    other_items: what stands behind figures that a callback logs, for their intervals; set by SceneScores.
    averages: of what trains, in its place in checkpoints; set by the callback EMA.
    resumed: training goes on from a checkpoint, which holds all that `start` would read; set by the command line.
    """

    def __init__(self, net: nn.Module, optimization: AdamWCosine):
        super().__init__()
        self.net, self.optimization = net, optimization
        self.representation: Representation | None = None
        self.generation: Generation | None = None
        self.strict_loading = False
        self.config = ""
        self.other_items: dict[str, Items] = {}
        self.averages: dict[str, Tensor] = {}
        self.resumed = False
        self.trained_steps = 0

    def setup(self, stage: str) -> None:
        """Read frozen weights and tokenizers from disk, and what training starts from. Kept features need no image
        encoder, but must come from the same one. Raises FileNotFoundError with all that is missing."""
        stores = getattr(self.trainer.datamodule, "stores", {})
        run_all(
            lambda: self.net.load(vision=not stores), *([self.start] if stage == "fit" and not self.resumed else [])
        )
        if stores and not self.net.vision.frozen:
            raise ValueError("data.features holds frozen features: set it to null, or model.net.vision.frozen to true")
        if stores:  # all of them were made by the same
            expected = self.net.vision.fingerprint() | {"image_size": self.trainer.datamodule.image_size}
            next(iter(stores.values())).check(expected)

    def start(self) -> None:
        """Put the Q-Former where training starts from."""

    def on_fit_start(self) -> None:
        """Warn where a run would end after its last validation: its figures would not be those of its checkpoint."""
        steps, interval = self.trainer.max_steps * self.trainer.accumulate_grad_batches, self.trainer.val_check_interval
        if isinstance(interval, int) and steps % interval and self.trainer.enable_validation:
            warnings.warn(
                f"trainer.val_check_interval={interval} does not divide the run's {steps} batches: what comes after "
                "the last validation has no figures. Set it to a divisor.",
                stacklevel=2,
            )

    def features(self, batch: dict[str, Any], name: str = "image") -> Tensor:
        """Image features [B, N, W]: those of the batch, else the encoder's, which the batch then keeps."""
        kept = "features" if name == "image" else name.replace("image", "features")
        if kept not in batch:
            batch[kept] = self.net.vision(batch[name])
        return batch[kept]

    @property
    def parts(self) -> list[Representation | Generation]:
        """Those that there are."""
        return [part for part in (self.representation, self.generation) if part is not None]

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        for part in self.parts:
            part.prepare(batch)
        return batch

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        seed_dropout(batch["seed"], batch["step"], micro_batch, self.trainer.global_rank)
        losses = self.losses(batch)
        self.last_batch = batch["step"], batch["image_id"]
        self.log_dict({f"train/loss_{name}": loss.detach() for name, loss in losses.items()}, prog_bar=True)
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
        for part in self.parts:
            part.begin(self)

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        totals = [total for part in self.parts if (total := part.step(self, batch)) is not None]
        if totals and self.representation is not None:  # without it there is one loss
            self.log_losses({"total": sum(totals)}, len(batch["image_id"]))

    def log_losses(self, losses: dict[str, Tensor], rows: int) -> None:
        """Losses of an evaluation batch, means over so many rows."""
        named = {f"loss/{name}": loss for name, loss in losses.items()}
        self.log_dict(named, batch_size=rows, add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        for part in self.parts:
            self.log_dict(part.metrics())

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Test figures stand in TensorBoard at the step that the checkpoint had reached, not at 0. Predictions are
        written first: what no metric can take is not lost."""
        if self.generation is not None:
            self.generation.write(self, "predictions.jsonl")
        self.on_validation_epoch_end()
        if self.representation is not None:
            self.representation.write(self, "predictions.jsonl")
        self.log("step", float(self.trained_steps))
        items = {name: each for part in self.parts for name, each in part.items.items()}
        write_intervals(self.trainer, items | self.other_items)
        if self.generation is not None:
            self.generation.submit(self)
            self.generation.finish(self)

    def on_predict_start(self) -> None:
        if self.generation is None:
            raise ValueError(
                "predict writes captions and answers, without a language model there are none: use a stage-2 experiment"
            )

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Captions and answers, for predict.jsonl; those of a test, in predictions.jsonl, stay."""
        self.generation.step(self, batch)

    def on_predict_epoch_end(self) -> None:
        self.generation.write(self, "predict.jsonl")
        self.generation.finish(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.logs_this_step():
            schedule = self.optimization  # of parameters that lr_scale does not name
            self.log("train/lr", schedule.lr * schedule.share(self.trainer.global_step, self.trainer.max_steps))
            grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self.log("train/grad_norm", nn.utils.get_total_norm(grads))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, schedule = self.optimization(self, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """Names, with * for a part that the data decide, of what `validate` (within fit too) or `test` logs.

        Args: the data module's tasks (caption, vqa, binding) of the split; the command.
        """
        return set().union(*(part.metric_names(tasks, command) for part in self.parts))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains, and the config."""
        checkpoint["state_dict"] = self.averages or trainable_state(self)
        checkpoint["config"] = self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError naming every missing, unexpected or misshapen weight."""
        check_fits(checkpoint["state_dict"], trainable_state(self), "the checkpoint")
        self.trained_steps = checkpoint["global_step"]
