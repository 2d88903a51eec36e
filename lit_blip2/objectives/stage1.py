"""Stage 1: runs the Q-Former passes that the objectives need, once each, and computes the losses (paper, 3.1).

                        images --> keys and values (once)
    lockstep:   [queries]            serves ITC and ITG
                [text]               ITC
                [text], sees queries ITG
    then:       [queries; text] x 3  ITM, whose negatives need ITC's similarities

Legend: B rows of this rank, R pairs, N image tokens, Q query tokens, P projection width, D Q-Former width, W image
width, U uniform numbers of a row.
"""

import warnings
from collections.abc import Callable, Mapping
from itertools import chain

from torch import Tensor, nn

from lit_blip2.model import masks
from lit_blip2.model.qformer import ImageKV, Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.tokenizer import BertTokenizer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.objective import Objective, Shared
from lit_blip2.paths import run_all

# Objectives with an argument of their own, in the order of their losses: ITM draws by ITC's similarities.
NAMED = ("itc", "itm", "itg")


class Stage1(nn.Module):
    """Image encoder, Q-Former, and any of ITC, ITM and ITG. An objective set to null is not computed.

    Args:
        vision: image encoder.
        qformer: Q-Former with text weights; it is built with the encoder's width.
        tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased).
        itc: image-text contrastive learning; null: off.
        itm: image-text matching; null: off.
        itg: image-grounded text generation; null: off.
        max_text_tokens: longest caption in tokens, [CLS] and [SEP] included; longer ones are cut.
        more_objectives: further objectives by name, such as {mlm: {class_path: my_package.MLM}}; null: none. Each is
            built with the Q-Former's width and vocabulary size, and has the interface of Objective in
            objectives/objective.py.
    Raises:
        ValueError: no objective is on, a name is taken, or max_text_tokens exceeds the Q-Former's positions.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        qformer: Callable[[int], QFormer],
        tokenizer: str,
        itc: Callable[[int], ITC] | None = None,
        itm: Callable[[int], ITM] | None = None,
        itg: Callable[[int, int], ITG] | None = None,
        max_text_tokens: int = 32,
        more_objectives: Mapping[str, Callable[[int, int], nn.Module] | None] | None = None,
    ):
        super().__init__()
        more = {name: make for name, make in (more_objectives or {}).items() if make is not None}
        if itc is None and itm is None and itg is None and not more:
            raise ValueError("itc, itm and itg are all null: stage 1 needs at least one objective")
        self.vision, self.qformer = vision, qformer(vision.width)
        if self.qformer.word_embeddings is None:
            raise ValueError("vocab_size=null leaves the Q-Former's text half out: stage 1 needs it")
        hidden, vocabulary = self.qformer.hidden, self.qformer.word_embeddings.num_embeddings
        self.itc = None if itc is None else itc(hidden)
        self.itm = None if itm is None else itm(hidden)
        self.itg = None if itg is None else itg(hidden, vocabulary)
        self.tokenizer_path, self.max_text_tokens = tokenizer, max_text_tokens
        self.tokenizer: BertTokenizer | None = None
        self._names = (*NAMED, *more)
        self._add(more, hidden, vocabulary)
        self._check()

    def _add(self, more: Mapping[str, Callable[[int, int], nn.Module]], hidden: int, vocabulary: int) -> None:
        """Build further objectives. Raises ValueError for a name that is taken, or a class that is no Objective."""
        for name, make in more.items():
            if not name.isidentifier() or name in ("lm", "total") or hasattr(self, name):
                raise ValueError(f"more_objectives: the name {name!r} is taken or no plain word, choose another")
            objective = make(hidden, vocabulary)
            if missing := [each for each in ("weight", "draws", "passes", "loss") if not hasattr(objective, each)]:
                raise ValueError(
                    f"more_objectives.{name}: {type(objective).__name__} has no {', '.join(missing)}, "
                    "see Objective in objectives/objective.py"
                )
            self.add_module(name, objective)

    def _check(self) -> None:
        for name, objective in self.objectives.items():
            if objective.weight < 0:
                raise ValueError(f"{name}.weight={objective.weight} must not be negative; {name}=null drops the loss")
        if self.itm is not None and self.itm.hard_negatives and self.itc is None:
            warnings.warn("itm without itc: negatives are drawn uniformly", stacklevel=3)
        places = self.qformer.position_embeddings.num_embeddings
        if not 3 <= self.max_text_tokens <= places:
            raise ValueError(
                f"max_text_tokens={self.max_text_tokens} must be at least 3 ([CLS], a word, [SEP]) and at most "
                f"max_positions={places}, what the Q-Former has room for"
            )

    @property
    def objectives(self) -> dict[str, Objective]:
        """The objectives that are on, by the name of their loss."""
        return {name: getattr(self, name) for name in self._names if getattr(self, name) is not None}

    @property
    def draws(self) -> int:
        """How many uniform random numbers a row needs. ITM's come first even if ITM is off, so that the numbers of the
        other objectives do not depend on it."""
        return max(span.stop for span in self._draws().values())

    def _draws(self) -> dict[str, slice]:
        """Objective -> its columns in a row's uniform numbers."""
        spans, first = {"itm": slice(0, ITM.draws)}, ITM.draws
        for name, objective in self.objectives.items():
            if name != "itm":
                spans[name] = slice(first, first := first + objective.draws)
        return spans

    def load(self, vision: bool = True) -> None:
        """Read the tokenizer and, with `vision`, the image encoder from disk. Raises FileNotFoundError."""
        run_all(self.load_tokenizers, *([self.vision.load] if vision else []))

    def load_tokenizers(self) -> None:
        """Read only the tokenizer from disk."""
        vocabulary = self.qformer.word_embeddings.num_embeddings
        self.tokenizer = self.tokenizer or BertTokenizer(self.tokenizer_path, vocabulary, self.max_text_tokens)

    def forward(
        self,
        features_BND: Tensor,
        text: PackedText,
        image_ids_B: Tensor,
        uniform_BU: Tensor,
        step: int | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the global batch.

        Args:
            features_BND: image features, float [B, N, W].
            text: captions. image_ids_B: int64.
            uniform_BU: float, `draws` uniform numbers in [0, 1) for each row, which draw ITM's negatives.
            step: optimiser step in training; None in evaluation.
        Returns:
            the loss of each objective that is on, by name, and total, their weighted sum; scalars.
        """
        return self.losses(features_BND, text, image_ids_B, uniform_BU, step)[0]

    def losses(
        self,
        features_BND: Tensor,
        text: PackedText,
        image_ids_B: Tensor,
        uniform_BU: Tensor,
        step: int | None = None,
        reads_queries: bool = False,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The losses of `forward`, and the query outputs of the pass of queries alone, float [B, Q, D].

        With `reads_queries` the query outputs are always computed; otherwise they are None if no objective needs them.
        """
        objectives, spans = self.objectives, self._draws()
        uniform = {name: uniform_BU[:, spans[name]] for name in objectives}
        image = self.qformer.project_image(features_BND)
        queries = Pass(masks.UNIMODAL, image=image)
        dec, longest = self.tokenizer.dec, self.max_text_tokens
        shared = Shared(self.qformer, features_BND, image, text, image_ids_B, dec, longest, queries, step)
        passes = {name: each.passes(shared, uniform[name]) for name, each in objectives.items()}
        wanted = [*chain(*passes.values()), *([queries] if reads_queries else [])]
        shared.reads_text = any(each.text is not None and each.read != "none" for each in wanted)
        once = {id(each): each for each in sorted(wanted, key=lambda each: each is not queries)}  # queries are pass 0
        made = dict(zip(once, shared.run(list(once.values()))))
        losses = {
            name: each.loss(shared, [made[id(one)] for one in passes[name]], uniform[name])
            for name, each in objectives.items()
        }
        total = sum(each.weight * losses[name] for name, each in objectives.items())
        query_BQD = made[id(queries)].query_RQD if id(queries) in made else None
        return losses | {"total": total + shared.zero()}, query_BQD

    def encode_images(self, features_BND: Tensor) -> tuple[Tensor | None, ImageKV]:
        """For retrieval: ITC's unit vectors, float [B, Q, P] (None without ITC), and the keys and values for ITM."""
        image = self.qformer.project_image(features_BND)
        if self.itc is None:
            return None, image
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)])
        return self.itc.project_image(output.query_RQD), image

    def encode_texts(self, text: PackedText) -> Tensor:
        """For retrieval: ITC's unit vectors of texts, float [B, P]. Needs ITC."""
        (output,) = self.qformer([Pass(masks.UNIMODAL, text=text, read="first")])
        return self.itc.project_text(output.text_LD)

    def match_logits(self, image: ImageKV, text: PackedText) -> Tensor:
        """ITM's logits of R (image, text) pairs, float [R, 2]; class 1 is a match. Needs ITM."""
        (output,) = self.qformer([Pass(masks.BIDIRECTIONAL, image=image, text=text, read="none")])
        return self.itm.logits(output.query_RQD)
