"""HParams: sends the main settings of a run to each of its loggers; in TensorBoard, a row of the HParams table."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_blip2.config import Experiment, class_path, from_text
from lit_blip2.objectives.stage1 import NAMED


class HParams(L.Callback):
    """Logs a selection of settings under flat names, to each logger.

    In TensorBoard they are a row of the HParams table. The metrics in the row start as NaN, so that a crashed run is
    shown too, and fill in as they are logged. In trackers without a folder, such as W&B or MLflow, a test is a run of
    its own and gets the settings too.
    """

    REPRESENTATION = (
        "retrieval/itc_txt_r1", "retrieval/itc_img_r1", "retrieval/itm_txt_r1", "retrieval/itm_img_r1",
        "binding/itc_accuracy", "binding/itm_accuracy",
    )  # fmt: skip
    GENERATION = ("vqa/accuracy", "vqa/mean_over_types", "caption/cider")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            table = isinstance(logger, TensorBoardLogger)
            tags = [{name: math.nan for name in self.metrics_of(pl_module)}] if table else []
            logger.log_hyperparams(settings_of(pl_module), *tags)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if not isinstance(logger, TensorBoardLogger | CSVLogger):
                logger.log_hyperparams(settings_of(pl_module))

    def metrics_of(self, pl_module: L.LightningModule) -> list[str]:
        """Names of the metrics that this module can log."""
        names = [f"loss/{name}" for name in pl_module.net.objectives]
        names += self.REPRESENTATION if pl_module.representation is not None else ()
        return [*names, *(self.GENERATION if pl_module.generation is not None else ())]


def settings_of(pl_module: L.LightningModule) -> dict[str, Any]:
    """The selected settings of a run; empty without the command line's configuration."""
    return curated(from_text(pl_module.config, "this run")) if pl_module.config else {}


def curated(experiment: Experiment) -> dict[str, Any]:
    """The settings that runs are compared by: objectives on or off, sizes, optimiser, seed and batch size."""
    net, data, language = experiment.net, experiment.data, experiment.language
    qformer, optimization = experiment.qformer, experiment.optimization
    objectives = {name: net[name] for name in (*NAMED, "lm") if name in net} | (net.get("more_objectives") or {})
    settings: dict[str, Any] = {name: "off" if each is None else "on" for name, each in objectives.items()}
    if "bridge" in net:
        settings["stage1"] = "on" if experiment.model.get("init_from") else "off"
        settings["bridge"] = class_path(net["bridge"]).rpartition(".")[2]
    if language:
        settings["llm"] = language.get("name", "")
        settings["llm_frozen"] = "on" if language.get("frozen", True) else "off"
    settings |= {name: qformer[name] for name in ("num_queries", "hidden", "layers") if name in qformer}
    settings |= {name: optimization[name] for name in ("lr", "warmup_steps") if name in optimization}
    settings |= {name: data[name] for name in ("batch_size",) if name in data}
    settings["seed"], settings["data_seed"] = experiment.settings.get("seed_everything", 0), data.get("seed", 0)
    settings["steps"] = experiment.trainer.get("max_steps", -1)
    return settings
