"""Where space goes: which object stands in which cell of the 3 x 3 grid, read off a run's features by linear probes.

Legend: B images, N training images, M evaluated images, D features, C classes.
"""

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lit_blip2.distributed import gather_lists, rank
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.probes import balanced_items, occurs, probed
from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.mini.scene_files import image_name, load_scenes
from lit_blip2.mini.scene_scores import WAY_OUT
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, Scene
from lit_blip2.model import masks
from lit_blip2.model.qformer import Pass

# Attribute -> its values; a class is a cell with a value: is such an object there?
VALUES = {"shape": SHAPES, "colour": COLOURS}
ATTRIBUTE_C = np.repeat(list(VALUES), [len(PLACES) * len(values) for values in VALUES.values()])
CLASSES = len(ATTRIBUTE_C)


class CellProbes(L.Callback):
    """Logs in `test`, and in the command `validate`, the balanced accuracy of linear probes (evaluation/probes.py): is
    there an object of this shape, or colour, in this cell? They are fitted on training scenes.

        probe/patches        from the frozen encoder's output, of a run with ITC, ITM or ITG
        probe/queries        from the query outputs of its Q-Former, which has seen no text
        probe/soft_prompt    from the soft prompt of a run with a language model

    each the mean over all cells, shapes and colours, and by itself over shapes (probe/queries_shape) and colours
    (probe/queries_colour). Chance is .5; probe/queries_chance is what a probe reaches on the labels of other scenes.
    probe/left_out counts the classes that do not occur, or are never absent, in the training or the evaluated scenes.

    Args:
        scenes_train: scene graphs of the training images, in the data's root. scenes_val: of the validation images.
        scenes_test: of the test images.
        most: the probes see the first so many training scenes.
    Raises:
        FileNotFoundError: no such scene graphs. ValueError: no class can be probed, or an image without a scene.
    """

    def __init__(
        self,
        scenes_train: str = "annotations/scenes_train.json",
        scenes_val: str = "annotations/scenes_val.json",
        scenes_test: str = "annotations/scenes_test.json",
        most: int = 3000,
    ):
        if most < 2:
            raise ValueError(f"most={most} must be at least 2 training scenes")
        self.files = {"train": scenes_train, "val": scenes_val, "test": scenes_test}
        self.most, self.rows = most, []
        self.scenes: dict[str, dict[int, Scene]] = {}

    def metric_names(self, pl_module: LitBLIP2, tasks: set[str], command: str) -> set[str]:
        """What this callback adds to LitBLIP2.metric_names."""
        if "caption" not in tasks or command == "fit":
            return set()
        ends = ("", "_chance", *(f"_{name}" for name in VALUES))
        return {f"probe/{kind}{end}" for kind in kinds(pl_module) for end in ends} | {"probe/left_out"}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        files = {split: trainer.datamodule.root / file for split, file in self.files.items()}
        needed = {"test": ("train", "test"), "validate": ("train", "val")}.get(stage, ())
        if missing := [str(files[split]) for split in needed if not files[split].is_file()]:
            raise FileNotFoundError(f"missing: {', '.join(missing)}, the mini-world's scenes. {WAY_OUT}")
        self.scenes = {split: load_scenes(files[split]).scenes for split in needed}

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: LitBLIP2) -> None:
        self.rows = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: LitBLIP2, outputs: Any, batch: dict[str, Any], *_: Any
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING and batch["task"] == "caption":
            made = vectors(pl_module, image_features(pl_module.net.vision, batch))
            self.rows.append((batch["image_id"].cpu(), made))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: LitBLIP2) -> None:
        if trainer.state.fn == TrainerFn.FITTING or not (rows := gather_lists(self.rows)):
            return
        self.rows = []
        own = [self._found(trainer, pl_module, rows, "test" if trainer.testing else "val")] if rank() == 0 else []
        ((items, left_out),) = gather_lists(own)
        metrics = {name: each.value() for name, each in items.items()}
        pl_module.log_dict(metrics | {"probe/left_out": float(left_out)})
        pl_module.other_items |= items

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    def _found(
        self, trainer: L.Trainer, pl_module: LitBLIP2, rows: Sequence[tuple[Tensor, dict[str, Tensor]]], split: str
    ) -> tuple[dict[str, Items], int]:
        """What stands behind the metrics, and how many classes are left out."""
        ids_M = torch.cat([ids_B for ids_B, _ in rows])
        if unknown := sorted(set(ids_M.tolist()) - self.scenes[split].keys()):
            raise ValueError(f"image {unknown[0]} has no scene in {self.files[split]}: it is of other data. {WAY_OUT}")
        train_ids = sorted(self.scenes["train"])[: self.most]
        labels_NC = labels([self.scenes["train"][each] for each in train_ids])
        truth_MC = labels([self.scenes[split][each] for each in ids_M.tolist()])
        kept_C = occurs(labels_NC, truth_MC).nonzero()[:, 0]
        if not len(kept_C):
            raise ValueError(
                f"none of {CLASSES} classes both occurs and is absent among {len(labels_NC)} training scenes and among "
                f"{len(truth_MC)} of {split}: probe more scenes"
            )
        train, found = training_vectors(trainer, pl_module, train_ids), {}
        for kind, train_ND in train.items():
            other_MD = torch.cat([made[kind] for _, made in rows])
            found |= probe_items(kind, train_ND, labels_NC, other_MD, truth_MC, ids_M, kept_C)
        return found, CLASSES - len(kept_C)


def kinds(pl_module: LitBLIP2) -> list[str]:
    """What a run's features are probed as."""
    return [
        *(("patches", "queries") if pl_module.representation is not None else ()),
        *(("soft_prompt",) if pl_module.generation is not None else ()),
    ]


@torch.no_grad()
def vectors(pl_module: LitBLIP2, features_BND: Tensor) -> dict[str, Tensor]:
    """Kind -> float [B, D], all tokens end to end, on the CPU. Args: image features [B, tokens, width]."""
    made = {}
    if pl_module.representation is not None:
        qformer = pl_module.representation.net.qformer
        (output,) = qformer([Pass(masks.UNIMODAL, image=qformer.project_image(features_BND))])
        made = {"patches": features_BND, "queries": output.query_RQD}
    if pl_module.generation is not None:
        net = pl_module.generation.net
        prompts = net.read([net.prompt] * len(features_BND))
        made["soft_prompt"] = net.soft_prompts(features_BND, prompts and prompts.to(features_BND.device))
    return {kind: each.float().flatten(1).cpu() for kind, each in made.items()}


def training_vectors(trainer: L.Trainer, pl_module: LitBLIP2, image_ids: Sequence[int]) -> dict[str, Tensor]:
    """The same of training images, [N, D]."""
    source, made = trainer.datamodule.source("train"), []
    for ids in torch.tensor(image_ids).split(trainer.datamodule.eval_batch_size):
        loaded = source.load([image_name(each) for each in ids.tolist()], ids.numpy()).to(pl_module.device)
        with torch.no_grad():
            made.append(vectors(pl_module, image_features(pl_module.net.vision, {source.name: loaded})))
    return {kind: torch.cat([each[kind] for each in made]) for kind in made[0]}


def labels(scenes: Sequence[Scene]) -> Tensor:
    """Bool [N, C]: of each scene, whether an object of this value stands in this cell."""
    labels_NC, first = torch.zeros(len(scenes), CLASSES, dtype=torch.bool), 0
    for attribute, values in VALUES.items():
        for row, scene in enumerate(scenes):
            for each in scene.objects:
                labels_NC[row, first + each.cell * len(values) + getattr(each, attribute)] = True
        first += len(PLACES) * len(values)
    return labels_NC


def probe_items(
    kind: str,
    train_ND: Tensor,
    labels_NC: Tensor,
    other_MD: Tensor,
    truth_MC: Tensor,
    ids_M: Tensor,
    kept_C: Tensor,
) -> dict[str, Items]:
    """The metrics of one kind of features. kept_C: int64, the classes that are probed."""
    labels_NC, truth_MC = labels_NC[:, kept_C], truth_MC[:, kept_C]
    others_NC = labels_NC[np.random.default_rng(0).permutation(len(labels_NC))]
    said_MC, chance_MC = probed(train_ND, torch.cat([labels_NC, others_NC], 1), other_MD).chunk(2, 1)
    found = {
        f"probe/{kind}": balanced_items(said_MC, truth_MC, ids_M, kept_C, CLASSES),
        f"probe/{kind}_chance": balanced_items(chance_MC, truth_MC, ids_M, kept_C, CLASSES),
    }
    for attribute in VALUES:
        own = torch.from_numpy(ATTRIBUTE_C[kept_C.numpy()] == attribute)
        if own.any():
            one = balanced_items(said_MC[:, own], truth_MC[:, own], ids_M, kept_C[own], CLASSES)
            found[f"probe/{kind}_{attribute}"] = one
    return found
