"""Stage 1 as a Lightning system: representation learning, with retrieval and binding as its evaluation."""

from typing import Any

from torch import Tensor

from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.representation import Representation
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
        self.representation, self.bert = Representation(net, rerank), bert

    def start(self) -> None:
        if self.bert is not None:
            load_bert(self.net.qformer, self.net.itg, self.bert)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.net(self.features(batch), batch["text"], batch["image_id"], batch["uniform_B2"])
