"""A row in TensorBoard's HParams table."""

import math
from typing import Any

import lightning as L
import yaml


class HParams(L.Callback):
    """A row in TensorBoard's HParams table with curated flat keys; the metrics fill in as they are logged.

    Tags start as nan, so that a run that crashed shows too.
    """

    METRICS = (
        "loss/itc", "loss/itm", "loss/itg", "loss/lm", "retrieval/itc_txt_r1", "retrieval/itc_img_r1",
        "retrieval/itm_txt_r1", "retrieval/itm_img_r1", "binding/itc_accuracy", "binding/itm_accuracy",
        "vqa/accuracy", "vqa/mean_over_types", "caption/cider",
    )  # fmt: skip

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(trainer.logger, L.pytorch.loggers.TensorBoardLogger):
            settings = curated(yaml.safe_load(pl_module.config) or {}) if pl_module.config else {}
            trainer.logger.log_hyperparams(settings, {name: math.nan for name in self.metrics_of(pl_module)})

    def metrics_of(self, pl_module: L.LightningModule) -> list[str]:
        """The metrics that this module can have."""
        own = ("loss/lm", "vqa/accuracy", "vqa/mean_over_types", "caption/cider")
        generates, represents = pl_module.generation is not None, pl_module.representation is not None
        return [name for name in self.METRICS if (generates if name in own else represents)]


def curated(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that people compare: objectives on or off, sizes, the optimiser, the data's seed and batch."""
    model, data = (config.get(part, {}).get("init_args", {}) for part in ("model", "data"))
    net = model.get("net", {}).get("init_args", {})
    bridge = net.get("bridge") or {}
    qformer = (net.get("qformer") or bridge.get("init_args", {}).get("qformer") or {}).get("init_args", {})
    optimization = (model.get("optimization") or {}).get("init_args", {})
    settings: dict[str, Any] = {}
    objectives = ("itc", "itm", "itg", "lm") if "lm" in net else ("itc", "itm", "itg")
    if "bridge" not in net:
        settings |= {name: "on" if net.get(name) else "off" for name in objectives}
    else:
        settings["stage1"] = "on" if model.get("init_from") else "off"
        settings["bridge"] = bridge.get("class_path", "").rpartition(".")[2]
    if language := net.get("language", {}).get("init_args", {}):
        settings["llm"] = language.get("name", "")
        settings["llm_frozen"] = "on" if language.get("frozen", True) else "off"
    settings |= {name: qformer[name] for name in ("num_queries", "hidden", "layers") if name in qformer}
    settings |= {name: optimization[name] for name in ("lr", "warmup_steps") if name in optimization}
    settings |= {name: data[name] for name in ("batch_size",) if name in data}
    settings["seed"], settings["data_seed"] = config.get("seed_everything", 0), data.get("seed", 0)
    settings["steps"] = config.get("trainer", {}).get("max_steps", -1)
    return settings
