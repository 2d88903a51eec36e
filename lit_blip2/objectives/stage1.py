"""Stage 1: which passes the objectives need, run once each, and the losses made of them (paper, 3.1).

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
    """Frozen image encoder, Q-Former, and any of ITC, ITM, ITG; an objective set to null costs nothing.

    Args:
        vision: image encoder.
        qformer: Q-Former with its text half; gets the encoder's width.
        tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased).
        itc: image-text contrastive learning. itm: image-text matching. itg: image-grounded text generation.
        max_text_tokens: longest caption, [CLS] and [SEP] included.
        more_objectives: further ones by name, such as {mlm: {class_path: my_package.MLM}}; each gets the Q-Former's
            width and vocabulary, and is what objectives/objective.py calls an Objective.
    Raises:
        ValueError: no objective, a name that is taken, or texts that the Q-Former has no positions for.
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
        """Further objectives, as parts of this network. Raises ValueError for a name or a class that cannot be one."""
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
        """Those that are on, by the name of their loss."""
        return {name: getattr(self, name) for name in self._names if getattr(self, name) is not None}

    @property
    def draws(self) -> int:
        """Uniform numbers of a row. ITM's come first, whether it is on or not: the others' do not depend on it."""
        return max(span.stop for span in self._draws().values())

    def _draws(self) -> dict[str, slice]:
        """Which of a row's uniform numbers are whose."""
        spans, first = {"itm": slice(0, ITM.draws)}, ITM.draws
        for name, objective in self.objectives.items():
            if name != "itm":
                spans[name] = slice(first, first := first + objective.draws)
        return spans

    def load(self, vision: bool = True) -> None:
        """Read the tokenizer and, unless features come from disk, the image encoder."""
        run_all(self.load_tokenizers, *([self.vision.load] if vision else []))

    def load_tokenizers(self) -> None:
        """Read the tokenizer alone."""
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

        Args: image features [B, N, W]; captions, packed on the host; image ids int64 [B]; `draws` uniform numbers per
        row, in [0, 1), which draw ITM's negatives; the optimiser step in training.
        Returns: the loss of each objective that is on, by name, and total, their weighted sum; scalars.
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
        """forward's losses, and the outputs of the pass of queries alone [B, Q, D].

        reads_queries: the caller makes a loss of these outputs too; otherwise they are None where no objective needs
        the pass.
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
        once = {id(each): each for each in sorted(wanted, key=lambda each: each is not queries)}  # they are pass 0
        made = dict(zip(once, shared.run(list(once.values()))))
        losses = {
            name: each.loss(shared, [made[id(one)] for one in passes[name]], uniform[name])
            for name, each in objectives.items()
        }
        total = sum(each.weight * losses[name] for name, each in objectives.items())
        query_BQD = made[id(queries)].query_RQD if id(queries) in made else None
        return losses | {"total": total + shared.zero()}, query_BQD

    def encode_images(self, features_BND: Tensor) -> tuple[Tensor | None, ImageKV]:
        """For retrieval: unit vectors [B, Q, P] (None without ITC), and the keys and values for ITM."""
        image = self.qformer.project_image(features_BND)
        if self.itc is None:
            return None, image
        (output,) = self.qformer([Pass(masks.UNIMODAL, image=image)])
        return self.itc.project_image(output.query_RQD), image

    def encode_texts(self, text: PackedText) -> Tensor:
        """For retrieval: unit vectors [B, P]. Needs ITC."""
        (output,) = self.qformer([Pass(masks.UNIMODAL, text=text, read="first")])
        return self.itc.project_text(output.text_LD)

    def match_logits(self, image: ImageKV, text: PackedText) -> Tensor:
        """ITM's two logits for each (image, text) pair, [R, 2]; class 1 is a match. Needs ITM."""
        (output,) = self.qformer([Pass(masks.BIDIRECTIONAL, image=image, text=text, read="none")])
        return self.itm.logits(output.query_RQD)
