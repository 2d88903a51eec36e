"""LitJoint: both stages in one training under Lightning, evaluated as stage 1 and as stage 2."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_blip2.checkpoint import is_text_half
from lit_blip2.lit.evaluators.evaluation import image_features
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.lit.evaluators.representation import Representation
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.bert import load_bert
from lit_blip2.objectives.gradients import gradient_metrics, gradients
from lit_blip2.objectives.joint import Joint


class LitJoint(LitBLIP2):
    """Joint training: the objectives of stage 1 and stage 2 on the same batch, with one Q-Former.

    Stage-1 objectives add retrieval and binding to the evaluation, stage-2 objectives captions and answers.

    Args:
        net: image encoder, Q-Former, language model and objectives.
        optimization: optimiser and learning rate schedule.
        bert: folder of BERT weights to initialise the Q-Former with; null: random weights.
        rerank: number of candidates per image and per text that ITM scores again in retrieval (128 in the paper).
        features_gb: image features in GB that each process keeps in RAM for re-ranking; the rest goes to files in
            TMPDIR.
        grad_norms: every trainer.log_every_n_steps steps, log the gradient of each weighted loss on the Q-Former
            weights that all objectives share (all but its text weights), in the step's last micro-batch: its norm as
            train/grad_norm_<objective>, and the cosine between two of them as train/grad_cos_<one>_<other>. Such a
            step needs one more backward pass, and memory for one more gradient, per objective.
        allow_different: names of settings, such as [image_size], that may differ between this run and the checkpoint
            that it evaluates. By default any setting that changes the network's output must agree.
        generation: how captions and answers are generated and scored: the arguments of Generation.
    """

    def __init__(
        self,
        net: Joint,
        optimization: AdamWCosine,
        bert: str | None = None,
        rerank: int = 128,
        features_gb: float = 8.0,
        grad_norms: bool = True,
        allow_different: Sequence[str] = (),
        **generation: Any,
    ):
        super().__init__(net, optimization, allow_different)
        self.bert, self.grad_norms = bert, grad_norms
        # Built even if a stage is off, so that bad arguments raise an error whichever objectives are on.
        representation = Representation(net.stage1, rerank, features_gb)
        generation = Generation(net.stage2, **generation)
        self.representation = None if net.stage1 is None else representation
        self.generation = None if net.stage2 is None else generation

    def start(self) -> None:
        if self.bert is not None:
            load_bert(self.net.qformer, getattr(self.net.stage1, "itg", None), self.bert)

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        made = {name: batch.get(name) for name in ("text", "uniform_BU", "target", "step")}
        return self.net(image_features(self.net.vision, batch), batch["image_id"], **made)

    def watch(self, losses: dict[str, Tensor]) -> None:
        if self.grad_norms:
            shared = [weight for name, weight in self.net.qformer.named_parameters() if not is_text_half(name)]
            weighted = {name: each.weight * losses[name] for name, each in self.net.objectives.items()}
            metrics = gradient_metrics(list(weighted), gradients(weighted, shared))
            self.log_dict({f"train/{name}": metric for name, metric in metrics.items()})
