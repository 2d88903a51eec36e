"""What both stages share as Lightning systems: features, losses to log, the optimiser, and lean checkpoints."""

import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lit_blip2.checkpoint import check_fits, trainable_state
from lit_blip2.keyed import seed_dropout
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.paths import run_all


class LitBLIP2(L.LightningModule):
    """A stage's network under Lightning. Subclasses say how a batch becomes losses, and how to evaluate.

    config: the resolved configuration as YAML, set by the command line, kept in every checkpoint.
    resumed: training goes on from a checkpoint, which holds all that `start` would read; set by the command line.
    """

    def __init__(self, net: nn.Module, optimization: AdamWCosine):
        super().__init__()
        self.net, self.optimization = net, optimization
        self.strict_loading = False
        self.config = ""
        self.resumed = False
        self.trained_steps = 0

    def setup(self, stage: str) -> None:
        """Read frozen weights and tokenizers from disk, and what training starts from. Kept features need no image
        encoder, but must come from the same one. Raises FileNotFoundError with all that is missing."""
        store = getattr(self.trainer.datamodule, "store", None)
        run_all(
            lambda: self.net.load(vision=store is None), *([self.start] if stage == "fit" and not self.resumed else [])
        )
        if store is not None and not self.net.vision.frozen:
            raise ValueError("data.features holds frozen features: set it to null, or model.net.vision.frozen to true")
        if store is not None:
            store.check(self.net.vision.fingerprint() | {"image_size": self.trainer.datamodule.image_size})

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
        """Image features [B, N, W]: those of the batch, else the encoder's."""
        kept = "features" if name == "image" else name.replace("image", "features")
        return batch[kept] if kept in batch else self.net.vision(batch[name])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        micro_batch = batch_idx % self.trainer.accumulate_grad_batches
        seed_dropout(batch["seed"], batch["step"], micro_batch, self.trainer.global_rank)
        losses = self.losses(batch)
        self.last_batch = batch["step"], batch["image_id"]
        self.log_dict({f"train/loss_{name}": loss.detach() for name, loss in losses.items()}, prog_bar=True)
        return losses["total"]

    def log_test_step(self) -> None:
        """Test figures stand in TensorBoard at the step that the checkpoint had reached, not at 0."""
        self.log("step", float(self.trained_steps))

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Named losses of a training batch, their weighted sum as `total`."""
        raise NotImplementedError

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0:
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
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what trains, and the config."""
        checkpoint["state_dict"] = trainable_state(self)
        checkpoint["config"] = self.config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError naming every missing, unexpected or misshapen weight."""
        check_fits(checkpoint["state_dict"], trainable_state(self), "the checkpoint")
        self.trained_steps = checkpoint["global_step"]
