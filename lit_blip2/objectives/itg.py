"""Image-grounded text generation (paper, 3.1; docs/numerics.md, ITG).

Legend: L predicting tokens of all texts, D Q-Former width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.distributed import global_mean, own_mean
from lit_blip2.model import masks
from lit_blip2.model.passes import Output, Pass
from lit_blip2.objectives.objective import Shared


class ITG(nn.Module):
    """Next-token loss on captions, with BERT's prediction head tied to the word embeddings.

    Logits are computed only at positions that predict a token.

    Args:
        hidden: Q-Former width.
        vocab_size: number of words, [DEC] included.
        label_smoothing: share (0 to 1) of the target that is spread evenly over the vocabulary.
        weight: factor of this loss in the total.
        mean_of_ranks: true: average the mean losses of the ranks, as LAVIS does; false: one mean over the tokens of
            all ranks.
    Raises:
        ValueError: label_smoothing out of range.
    """

    draws = 0  # see Objective

    def __init__(
        self,
        hidden: int,
        vocab_size: int,
        label_smoothing: float = 0.1,
        weight: float = 1.0,
        mean_of_ranks: bool = False,
    ):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.transform = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.label_smoothing, self.weight, self.mean_of_ranks = label_smoothing, weight, mean_of_ranks
        nn.init.normal_(self.transform.weight, std=0.02)
        nn.init.zeros_(self.transform.bias)

    def passes(self, shared: Shared, uniform_BU: Tensor) -> list[Pass]:
        """Two passes: queries alone, and captions that start with [DEC] and attend to the queries."""
        captions = shared.text.with_first_token(shared.dec)
        return [shared.queries, Pass(masks.MULTIMODAL_CAUSAL, text=captions, context=0)]

    def loss(self, shared: Shared, outputs: Sequence[Output], uniform_BU: Tensor) -> Tensor:
        """See Objective."""
        places_L, targets_L = shared.text.next_tokens()
        hidden_LD = outputs[1].text_LD.index_select(0, places_L)
        return self(hidden_LD, targets_L, shared.qformer.word_embeddings.weight)["loss"]

    def logits(self, hidden_LD: Tensor, embeddings_VD: Tensor) -> Tensor:
        """Logits [L, V] of hidden states [L, D], with the word embeddings [V, D] as output weights."""
        return F.linear(self.norm(F.gelu(self.transform(hidden_LD))), embeddings_VD, self.bias)

    def forward(self, hidden_LD: Tensor, targets_L: Tensor, embeddings_VD: Tensor) -> dict[str, Tensor]:
        """Cross-entropy with label smoothing, averaged over tokens as `mean_of_ranks` says.

        Args:
            hidden_LD: hidden states at the positions that predict a token.
            targets_L: int64, the tokens to predict. embeddings_VD: word embeddings.
        Returns:
            loss, a scalar in nats.
        """
        logits_LV = self.logits(hidden_LD, embeddings_VD).float()
        sum_ = F.cross_entropy(logits_LV, targets_L, label_smoothing=self.label_smoothing, reduction="sum")
        mean = own_mean if self.mean_of_ranks else global_mean
        return {"loss": mean(sum_, sum_.new_full((), len(targets_L)))}
