"""Stage 2 as a Lightning system: generative learning, with captions and zero-shot answers as its evaluation."""

from typing import Any

from torch import Tensor

from lit_blip2.checkpoint import check_fits, encoder_settings, qformer_state, read_checkpoint
from lit_blip2.lit.generation import Generation
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.bert import load_bert
from lit_blip2.model.vision import used_blocks
from lit_blip2.objectives.stage2 import Stage2


class LitStage2(LitBLIP2):
    """Generative learning (paper, 3.2).

    Args:
        net: encoder, bridge and language model.
        optimization: optimiser and schedule.
        init_from: stage-1 checkpoint or run folder that the Q-Former starts from; null: stage 1 is skipped, as it must
            be for a bridge without a Q-Former.
        bert: where stage 1 is skipped, folder of BERT weights that the Q-Former starts from; null: random.
        generation: how captions and answers are made: Generation's arguments.
    """

    def __init__(
        self,
        net: Stage2,
        optimization: AdamWCosine,
        init_from: str | None = None,
        bert: str | None = None,
        **generation: Any,
    ):
        super().__init__(net, optimization)
        self.generation = Generation(net, **generation)
        if init_from and bert:
            raise ValueError(f"init_from={init_from!r}, bert={bert!r}: the Q-Former starts from one, set one to null")
        for name, value in (("init_from", init_from), ("bert", bert)):
            if value is not None and not hasattr(net.bridge, "qformer"):
                raise ValueError(
                    f"{name}={value!r} is what a Q-Former starts from, and {type(net.bridge).__name__} has none: "
                    f"--model.{name}=null"
                )
        self.init_from, self.bert = init_from, bert

    def start(self) -> None:
        if self.init_from is not None:
            qformer = self.net.bridge.qformer
            checkpoint = read_checkpoint(self.init_from)
            if any(key.startswith("net.vision.") for key in checkpoint["state_dict"]):
                raise ValueError(
                    f"init_from={self.init_from!r} trained its image encoder too, and stage 2 would go on with the "
                    "original one: export the encoder and point model.net.vision.weights to it"
                )
            self._check_encoder(encoder_settings(checkpoint))
            state = qformer_state(checkpoint, self.init_from, qformer)
            check_fits(state, qformer.state_dict(), f"init_from={self.init_from!r}")
            qformer.load_state_dict(state)
        elif self.bert is not None:
            load_bert(self.net.bridge.qformer, None, self.bert)

    def _check_encoder(self, theirs: dict[str, Any]) -> None:
        """Raises ValueError where stage 1 looked through another encoder, or fewer or more blocks of it."""
        vision = self.net.vision
        ours = {"name": vision.name, "model_args": vision.own_args, "drop_last_blocks": vision.drop_last_blocks}
        theirs = {key: {} if value is None else value for key, value in theirs.items()}
        if not theirs or theirs == ours:
            return
        if theirs["name"] == vision.name and used_blocks(**theirs) == used_blocks(**ours):
            return
        raise ValueError(
            f"init_from={self.init_from!r} was trained with vision {theirs}, this run has {ours}: its Q-Former knows "
            "no other features"
        )

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.net(self.features(batch), batch["target"], batch["prompts"])
