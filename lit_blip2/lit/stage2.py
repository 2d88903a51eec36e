"""LitStage2: stage 2 under Lightning. It trains the bridge, and is evaluated by captions and zero-shot answers."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.lit.start import add_text_half, read_start, take_qformer, take_stage
from lit_blip2.model.bert import load_bert
from lit_blip2.objectives.stage2 import Stage2


class LitStage2(LitBLIP2):
    """Stage 2, generative learning: trains the bridge from image to language model (BLIP-2 paper, section 3.2).

    Args:
        net: image encoder, bridge and language model.
        optimization: optimiser and learning rate schedule.
        init_from: checkpoint or run folder to start from. Stage 1: the Q-Former takes its weights. Stage 2: everything
            that trains does. null: stage 1 is skipped; a bridge without a Q-Former needs null.
        bert: folder of BERT weights to initialise the Q-Former with, if init_from is null; null: random weights.
        text_from: checkpoint or run folder of stage 1 that gives the Q-Former's text weights. Needed only if the
            bridge reads prompts (InstructedBridge) and init_from is a stage 2 whose bridge did not: its checkpoint
            holds no text weights. null: none.
        allow_different: names of settings, such as [image_size], that may differ between this run and the checkpoints
            that it starts from or evaluates. By default any setting that changes the network's output must agree.
        generation: how captions and answers are generated and scored: the arguments of Generation.
    """

    def __init__(
        self,
        net: Stage2,
        optimization: AdamWCosine,
        init_from: str | None = None,
        bert: str | None = None,
        text_from: str | None = None,
        allow_different: Sequence[str] = (),
        **generation: Any,
    ):
        super().__init__(net, optimization, allow_different)
        self.generation = Generation(net, **generation)
        if init_from and bert:
            raise ValueError(f"init_from={init_from!r}, bert={bert!r}: the Q-Former starts from one, set one to null")
        for name, value in (("init_from", init_from), ("bert", bert)):
            if value is not None and not hasattr(net.bridge, "qformer"):
                raise ValueError(
                    f"{name}={value!r} is what a Q-Former starts from, and {type(net.bridge).__name__} has none: "
                    f"--model.{name}=null"
                )
        if text_from and not (init_from and net.reads_prompts):
            raise ValueError(
                f"text_from={text_from!r} is for a bridge that reads prompts (InstructedBridge) and goes on from "
                "init_from, a run of stage 2: set it to null"
            )
        self.init_from, self.bert, self.text_from = init_from, bert, text_from

    def start(self) -> None:
        if self.init_from is not None:
            checkpoint = read_start(self.init_from, self)
            if any(key.startswith("net.bridge.") for key in checkpoint["state_dict"]):
                add_text_half(checkpoint, self.text_from, self)
                take_stage(self, checkpoint, self.init_from)
            elif self.text_from:
                raise ValueError(
                    f"text_from={self.text_from!r}, and init_from={self.init_from!r} is a stage 1 with a text "
                    "half of its own: set text_from to null"
                )
            else:
                take_qformer(self.net.bridge.qformer, checkpoint, self.init_from)
        elif self.bert is not None:
            load_bert(self.net.bridge.qformer, None, self.bert)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        given = batch["target"], batch["prompts"], batch.get("queries")
        return self.net(image_features(self.net.vision, batch), *given)
