"""Representation, the evaluator of stage 1: it tokenises texts, and computes losses, retrieval and binding."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_blip2.distributed import single_process
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.queries import query_usage
from lit_blip2.evaluation.recall import Retrieved
from lit_blip2.keyed import row_uniforms
from lit_blip2.lit.evaluators.evaluation import Evaluation, Losses, image_features, names_of
from lit_blip2.lit.evaluators.retrieval import RetrievalSet
from lit_blip2.model.plain import naming
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.whole_files import write_text


class Representation:
    """Stage 1's evaluator: turns batches into losses and metrics.

    query_wins: which query won for each image of the last evaluation, int64 [I]; None without ITC. items: metric name
    -> the per-example values behind the metric. retrieved: what was ranked; None before the end of an evaluation.

    Args:
        net: encoder, Q-Former and objectives.
        rerank: candidates per image and per text that ITM scores again (the paper's k is 128).
        features_gb: GB of image features that each process keeps in RAM for re-ranking; more goes to files in TMPDIR.
    """

    tasks = ("caption", "binding")

    def __init__(self, net: Stage1, rerank: int, features_gb: float = 8.0):
        if rerank < 1:
            raise ValueError(f"rerank={rerank} must be at least 1")
        if features_gb < 0:
            raise ValueError(f"features_gb={features_gb} must not be negative; 0 keeps all features in files")
        self.net, self.rerank, self.features_gb = net, rerank, features_gb
        self.query_wins: Tensor | None = None
        self.items: dict[str, Items] = {}
        self.retrieved: Retrieved | None = None

    def prepare(self, batch: dict[str, Any]) -> None:
        """Tokenise and draw random numbers."""
        if batch["task"] == "train" and "caption" not in batch:
            raise ValueError(
                "ITC, ITM and ITG train on captions, and these data are questions: use a stage-2 experiment"
            )
        if batch["task"] == "train":
            batch["uniform_BU"] = row_uniforms(batch["seed"], batch["step"], batch["row"], self.net.draws)
            batch["text"] = self.net.tokenizer(batch["caption"])
        elif batch["task"] == "caption":
            if not all(batch["captions"]):
                image_id = batch["image_id"][[not texts for texts in batch["captions"]].index(True)]
                raise ValueError(
                    f"image {image_id} has no caption, and retrieval needs some: set data.test to another file"
                )
            with naming([name for name, texts in zip(names_of(batch), batch["captions"]) for _ in texts]):
                batch["text"] = self.net.tokenizer([text for texts in batch["captions"] for text in texts])
            batch["first_text"] = self.net.tokenizer([texts[0] for texts in batch["captions"]])
        elif batch["task"] == "binding":
            batch["text"] = self.net.tokenizer(batch["caption"])

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """See LitBLIP2.metric_names."""
        on = self.net.objectives
        names = {f"loss/{name}" for name in (*on, "total")} if "caption" in tasks else set()
        if "caption" in tasks and "itc" in on:
            modes = ("itc", "itm", "sum") if "itm" in on else ("itc",)
            names |= {f"retrieval/{mode}_{way}_r{k}" for mode in modes for way in ("txt", "img") for k in (1, 5, 10)}
            names.add("queries/entropy")
        if "binding" in tasks:
            names |= {f"binding/{name}_accuracy" for name in ("itc", "itm") if name in on}
        return names

    def begin(self, evaluation: Evaluation) -> None:
        """Start an evaluation."""
        self.retrieval = RetrievalSet(self.net, self.rerank, self.features_gb)

    def step(self, batch: dict[str, Any]) -> Losses | None:
        """Evaluate a batch. Returns its losses if it has captions, else None."""
        if batch["task"] == "caption":
            counts = [len(texts) for texts in batch["captions"]]
            features_BND = image_features(self.net.vision, batch)
            self.retrieval.add(features_BND, batch["text"], batch["image_id"], counts)
            return self._losses(features_BND, batch)
        if batch["task"] == "binding":
            swapped_BND = image_features(self.net.vision, batch, "swapped_image")
            true_BND, ids = image_features(self.net.vision, batch), (batch["image_id"], batch["row"])
            self.retrieval.add_binding(true_BND, swapped_BND, batch["text"], *ids)
        return None

    def _losses(self, features_BND: Tensor, batch: dict[str, Any]) -> Losses:
        """Losses of this rank's evaluation batch alone. Negatives are drawn as at step 0 of seed 0."""
        uniform_BU = row_uniforms(0, 0, batch["row"].cpu(), self.net.draws).to(features_BND.device)
        with single_process():
            losses = self.net(features_BND, batch["first_text"], batch["image_id"], uniform_BU)
        total = losses.pop("total")
        return Losses(losses, total, len(features_BND))

    def metrics(self) -> dict[str, float]:
        """Retrieval and binding metrics over all ranks. Frees what was collected."""
        metrics = self.retrieval.metrics()
        self.items, self.retrieved = self.retrieval.items, self.retrieval.retrieved
        self.query_wins = self.retrieval.query_wins()
        if self.query_wins is not None:
            metrics["queries/entropy"] = query_usage(self.query_wins, self.net.qformer.num_queries)[2]
        del self.retrieval
        return metrics

    def rules(self) -> dict[str, Any]:
        """How a test is made: evaluation/rules.py."""
        return {"rerank": self.rerank}

    def write(self, file: Path, append: bool) -> None:
        """Write what was retrieved, one line of JSON each. append: after what the file holds."""
        if self.retrieved is not None:
            before = file.read_text(encoding="utf-8") if append else ""
            write_text(file, before + "".join(json.dumps(each) + "\n" for each in self.retrieved.predictions()))
