"""LitStage1: stage 1 under Lightning. It trains the Q-Former, and is evaluated by retrieval and binding."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.start import read_start, take_stage
from lit_blip2.model.bert import load_bert
from lit_blip2.objectives.stage1 import Stage1


class LitStage1(LitBLIP2):
    """Stage 1, representation learning: trains the Q-Former with ITC, ITM and ITG (BLIP-2 paper, section 3.1).

    Args:
        net: image encoder, Q-Former and objectives.
        optimization: optimiser and learning rate schedule.
        bert: folder of BERT weights to initialise the Q-Former with; null: random weights.
        init_from: checkpoint or run folder of stage 1 whose weights training starts from; null: none. Excludes bert.
        rerank: number of candidates per image and per text that ITM scores again in retrieval (128 in the paper).
        features_gb: image features in GB that each process keeps in RAM for re-ranking; the rest goes to files in
            TMPDIR.
        allow_different: names of settings, such as [image_size], that may differ between this run and the checkpoint
            that it starts from or evaluates. By default any setting that changes the network's output must agree.
    """

    def __init__(
        self,
        net: Stage1,
        optimization: AdamWCosine,
        bert: str | None = None,
        init_from: str | None = None,
        rerank: int = 128,
        features_gb: float = 8.0,
        allow_different: Sequence[str] = (),
    ):
        super().__init__(net, optimization, allow_different)
        if init_from and bert:
            raise ValueError(f"init_from={init_from!r}, bert={bert!r}: training starts from one, set one to null")
        self.representation, self.bert, self.init_from = Representation(net, rerank, features_gb), bert, init_from

    def start(self) -> None:
        if self.init_from is not None:
            take_stage(self, read_start(self.init_from, self), self.init_from)
        elif self.bert is not None:
            load_bert(self.net.qformer, self.net.itg, self.bert)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        given = batch["text"], batch["image_id"], batch["uniform_BU"]
        return self.net(image_features(self.net.vision, batch), *given, batch["step"])
