"""Stage 1 as a Lightning system: representation learning, with retrieval and binding as its evaluation."""

from typing import Any

from torch import Tensor

from lit_blip2.distributed import single_process
from lit_blip2.evaluation.queries import query_usage
from lit_blip2.keyed import row_uniforms
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.retrieval import RetrievalSet
from lit_blip2.model.bert import load_bert
from lit_blip2.objectives.stage1 import Stage1


class LitStage1(LitBLIP2):
    """Representation learning (paper, 3.1).

    Args:
        net: encoder, Q-Former and objectives.
        optimization: optimiser and schedule.
        bert: folder of BERT weights that the Q-Former starts from; null: random.
        rerank: candidates per image and per text that ITM scores again (the paper's k is 128).
    """

    def __init__(self, net: Stage1, optimization: AdamWCosine, bert: str | None = None, rerank: int = 128):
        super().__init__(net, optimization)
        if rerank < 1:
            raise ValueError(f"rerank={rerank} must be at least 1")
        self.bert, self.rerank = bert, rerank

    def start(self) -> None:
        if self.bert is not None:
            load_bert(self.net.qformer, self.net.itg, self.bert)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Tokenise and draw random numbers while the batch is on the host."""
        if batch["task"] == "train":
            batch["uniform_B2"] = row_uniforms(batch["seed"], batch["step"], batch["row"])
            batch["text"] = self.net.tokenizer(batch["caption"])
        elif batch["task"] == "caption":
            batch["text"] = self.net.tokenizer([text for texts in batch["captions"] for text in texts])
            batch["first_text"] = self.net.tokenizer([texts[0] for texts in batch["captions"]])
        elif batch["task"] == "binding":
            batch["text"] = self.net.tokenizer(batch["caption"])
        return batch

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        on = [name for name in ("itc", "itm", "itg") if getattr(self.net, name) is not None]
        names = {f"loss/{name}" for name in (*on, "total")} if "caption" in tasks else set()
        if "caption" in tasks and "itc" in on:
            modes = ("itc", "itm", "sum") if "itm" in on else ("itc",)
            names |= {f"retrieval/{mode}_{way}_r{k}" for mode in modes for way in ("txt", "img") for k in (1, 5, 10)}
            names.add("queries/entropy")
        if "binding" in tasks:
            names |= {f"binding/{name}_accuracy" for name in on if name != "itg"}
        return names

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.net(self.features(batch), batch["text"], batch["image_id"], batch["uniform_B2"])

    def on_validation_epoch_start(self) -> None:
        self.retrieval = RetrievalSet(self.net, self.rerank)

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        features_BND = self.features(batch)
        if batch["task"] == "caption":
            self._log_losses(features_BND, batch)
            counts = [len(texts) for texts in batch["captions"]]
            self.retrieval.add(features_BND, batch["text"], batch["image_id"], counts)
        elif batch["task"] == "binding":
            self.retrieval.add_binding(features_BND, self.features(batch, "swapped_image"), batch["text"])

    def _log_losses(self, features_BND: Tensor, batch: dict[str, Any]) -> None:
        """Losses of an evaluation batch by itself, negatives drawn as for step 0 of seed 0."""
        uniform_B2 = row_uniforms(0, 0, batch["row"].cpu()).to(features_BND.device)
        with single_process():
            losses = self.net(features_BND, batch["first_text"], batch["image_id"], uniform_B2)
        self.log_dict(
            {f"loss/{name}": loss for name, loss in losses.items()},
            batch_size=len(features_BND), add_dataloader_idx=False, sync_dist=True,
        )  # fmt: skip

    def on_validation_epoch_end(self) -> None:
        metrics = self.retrieval.metrics()
        self.query_wins = self.retrieval.query_wins()
        if self.query_wins is not None:
            metrics["queries/entropy"] = query_usage(self.query_wins, self.net.qformer.num_queries)[2]
        self.log_dict(metrics, rank_zero_only=False, sync_dist=False)
        del self.retrieval

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()
        self.log_test_step()

    def on_predict_start(self) -> None:
        raise ValueError("predict writes captions and answers, and stage 1 has none: use a stage-2 experiment")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Never reached; Lightning asks for it before it says why."""
