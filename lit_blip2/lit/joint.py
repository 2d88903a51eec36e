"""Both stages at once as a Lightning system, with the evaluations of both on one checkpoint."""

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
    """Representation and generative learning in one pass.

    Evaluation is that of the stages whose objectives are on: retrieval and binding, captions and answers.

    Args:
        net: encoder, Q-Former, language model and objectives.
        optimization: optimiser and schedule.
        bert: folder of BERT weights that the Q-Former starts from; null: random.
        rerank: candidates per image and per text that ITM scores again (the paper's k is 128).
        features_gb: GB of image features that each process keeps in RAM for re-ranking; more goes to files in TMPDIR.
        grad_norms: every log_every_n_steps, log train/grad_norm_<objective>, the norm of the gradient that a weighted
            loss gives to the Q-Former's weights that all objectives share (its text half left out), and
            train/grad_cos_<one>_<other>, the cosine between two of them; of a step's last micro-batch. Such a step
            costs a backward more for each objective, and memory for as many gradients; other steps cost nothing.
        allow_different: settings, such as [image_size], in which a checkpoint that is evaluated may
            differ from this one; any other that changes the network's function is refused (settings.py).
        generation: how captions and answers are made: Generation's arguments.
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
        # Made for an absent stage too: what they refuse is wrong whichever objectives are on.
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
