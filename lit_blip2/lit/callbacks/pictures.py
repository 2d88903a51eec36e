"""What a network sees and says, as pictures for loggers: sample images with texts, attention maps, winning queries."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_blip2.evaluation.queries import query_usage
from lit_blip2.lit.callbacks.attention import query_maps
from lit_blip2.lit.callbacks.sample_texts import Line, stage1_lines, stage2_lines
from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.model.qformer import QFormer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Samples(NamedTuple):
    """The images to show: uint8 [B, 3, H, W], their features [B, N, W], and each one's first caption ("" if none)."""

    pixels_B3HW: Tensor
    features_BND: Tensor
    image_ids: list[int]
    captions: list[str]


class Pictures(L.Callback):
    """Logs pictures after validation (val/...) and test (test/...), to TensorBoard, W&B and MLflow.

        samples     the first images with their captions. Stage 1: which of these captions ITC and ITM prefer.
                    Stage 2: the generated caption and answers. Joint training: both.
        attention   the attention map of each query (attention.py); networks with a Q-Former.
        queries     how often each query attains ITC's maximum; networks with ITC. The metric queries/entropy says how
                    evenly, 0 to 1.

    Images are read from their files, even if the run uses cached features. Without the files there are no pictures.

    Args:
        samples: number of images to show.
        questions: largest number of questions shown for each image.
    """

    def __init__(self, samples: int = 8, questions: int = 3):
        if samples < 1 or questions < 0:
            raise ValueError(
                f"Pictures: samples={samples}, questions={questions}: show at least 1 image, and 0 questions or more; "
                "leave the callback out for no pictures"
            )
        self.samples, self.questions = samples, questions

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._show(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule, split: str) -> None:
        takers = [each for each in map(taker, trainer.loggers) if each] if trainer.is_global_zero else []
        if not takers:
            return
        from lit_blip2.lit.callbacks.drawing import (
            render,  # imports matplotlib, half a second that others save
        )

        with trainer.precision_plugin.val_step_context():
            figures = list(self._figures(trainer, pl_module, split))
        step = pl_module.trained_steps if trainer.testing else trainer.global_step
        for name, figure in figures:
            image_HW3 = render(figure)
            for take in takers:
                take(f"{split}/{name}", image_HW3, step)

    def _figures(self, trainer: L.Trainer, pl_module: LitBLIP2, split: str) -> Iterator[tuple[str, "Figure"]]:
        from lit_blip2.lit.callbacks.drawing import attention_sheet, query_bars, sample_sheet, to_rgb

        samples = read_samples(trainer, pl_module, split, self.samples)
        if samples is not None:
            images_BHW3 = to_rgb(samples.pixels_B3HW)
            yield "samples", sample_sheet(images_BHW3, self._lines(trainer, pl_module, split, samples))
            if (qformer := qformer_of(pl_module)) is not None:
                yield "attention", attention_sheet(images_BHW3, query_maps(qformer, samples.features_BND))
        represents = pl_module.representation
        if represents is not None and (wins := represents.query_wins) is not None:
            wins_Q, _, evenness = query_usage(wins, pl_module.net.qformer.num_queries)
            yield "queries", query_bars(wins_Q, evenness)

    def _lines(self, trainer: L.Trainer, pl_module: LitBLIP2, split: str, samples: Samples) -> list[list[Line]]:
        represents, generates = pl_module.representation, pl_module.generation
        first = [[Line(caption)] for caption in samples.captions]
        ranks = represents is not None and any(samples.captions)  # without texts there is nothing to rank
        if ranks:
            first = stage1_lines(represents.net, samples.features_BND, samples.captions)
        if generates is None:
            return first
        table, image_of = trainer.datamodule.tables[split].get("vqa"), {}
        if table is not None:
            image_of = dict(zip(table.question_ids.tolist(), table.image_ids.tolist(), strict=True))
        second = stage2_lines(generates.predictions, samples.image_ids, samples.captions, image_of, self.questions)
        return [one + two[1:] for one, two in zip(first, second, strict=True)] if ranks else second


def taker(logger: Logger) -> Callable[[str, np.ndarray, int], None] | None:
    """A function of tag, picture (uint8 [H, W, 3]) and step that gives it to a logger; None for one that takes no
    pictures."""
    if isinstance(logger, TensorBoardLogger):
        return lambda tag, image_HW3, step: logger.experiment.add_image(tag, image_HW3, step, dataformats="HWC")
    if hasattr(type(logger), "log_image"):  # such as W&B's
        return lambda tag, image_HW3, step: logger.log_image(tag, [image_HW3], step=step)
    if hasattr(type(logger), "run_id"):  # such as MLflow's, whose client stores a run's files
        return lambda tag, image_HW3, step: logger.experiment.log_image(logger.run_id, image_HW3, f"{tag}/{step}.png")
    return None


def qformer_of(pl_module: LitBLIP2) -> QFormer | None:
    """The Q-Former, if there is one."""
    return getattr(getattr(pl_module.net, "bridge", pl_module.net), "qformer", None)


@torch.no_grad()
def read_samples(trainer: L.Trainer, pl_module: LitBLIP2, split: str, count: int) -> Samples | None:
    """The first `count` images of a split's caption file; None, with a warning, if their files are not there."""
    data = trainer.datamodule
    table = data.tables[split].get("caption")
    if table is None:
        return None
    source = data.pixels(split)
    rows = range(min(count, len(table)))
    files, image_ids = [table.files[i] for i in rows], table.image_ids[: len(rows)]
    if missing := [path for path in map(source.path, files) if not path.exists()]:
        rank_zero_warn(f"no sample images in the logs: {missing[0]} is missing ({len(missing)} of {len(files)})")
        return None
    pixels_B3HW = source.load(files, image_ids)
    given = {"features": data.store(split).rows(image_ids)} if data.features else {"image": pixels_B3HW}
    features_BND = image_features(
        pl_module.net.vision, {name: value.to(pl_module.device) for name, value in given.items()}
    )
    return Samples(pixels_B3HW, features_BND, image_ids.tolist(), [next(iter(table.of(i)), "") for i in rows])
