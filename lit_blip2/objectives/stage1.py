"""Stage 1: which passes the objectives need, run once each, and the losses made of them (paper, 3.1).

                        images --> keys and values (once)
    lockstep:   [queries]            serves ITC and ITG
                [text]               ITC
                [text], sees queries ITG
    then:       [queries; text] x 3  ITM, whose negatives need ITC's similarities

Legend: B rows of this rank, N rows of the global batch, R pairs, Q query tokens, D Q-Former width, W image width.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lit_blip2.distributed import gather, world_size
from lit_blip2.model import masks
from lit_blip2.model.qformer import ImageKV, Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.tokenizer import BertTokenizer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM, draw_negatives
from lit_blip2.paths import run_all


class Stage1(nn.Module):
    """Frozen image encoder, Q-Former, and any of ITC, ITM, ITG; an objective set to null costs nothing.

    Args:
        vision: image encoder.
        qformer: Q-Former with its text half; gets the encoder's width.
        tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased).
        itc: image-text contrastive learning. itm: image-text matching. itg: image-grounded text generation.
        max_text_tokens: longest caption, [CLS] and [SEP] included.
    Raises:
        ValueError: no objective, or texts that the Q-Former has no positions for.
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
    ):
        super().__init__()
        if itc is None and itm is None and itg is None:
            raise ValueError("itc, itm and itg are all null: stage 1 needs at least one objective")
        self.vision, self.qformer = vision, qformer(vision.width)
        if self.qformer.word_embeddings is None:
            raise ValueError("vocab_size=null leaves the Q-Former's text half out: stage 1 needs it")
        hidden, vocabulary = self.qformer.hidden, self.qformer.word_embeddings.num_embeddings
        self.itc = None if itc is None else itc(hidden)
        self.itm = None if itm is None else itm(hidden)
        self.itg = None if itg is None else itg(hidden, vocabulary)
        for name in ("itc", "itm", "itg"):
            if (objective := getattr(self, name)) is not None and objective.weight < 0:
                raise ValueError(f"{name}.weight={objective.weight} must not be negative; {name}=null drops the loss")
        if self.itm is not None and self.itm.hard_negatives and self.itc is None:
            warnings.warn("itm without itc: negatives are drawn uniformly", stacklevel=2)
        places = self.qformer.position_embeddings.num_embeddings
        if not 3 <= max_text_tokens <= places:
            raise ValueError(
                f"max_text_tokens={max_text_tokens} must be at least 3 ([CLS], a word, [SEP]) and at most "
                f"max_positions={places}, what the Q-Former has room for"
            )
        self.tokenizer_path, self.max_text_tokens = tokenizer, max_text_tokens
        self.tokenizer: BertTokenizer | None = None

    def load(self, vision: bool = True) -> None:
        """Read the tokenizer and, unless features come from disk, the image encoder."""
        run_all(self._load_tokenizer, *([self.vision.load] if vision else []))

    def _load_tokenizer(self) -> None:
        vocabulary = self.qformer.word_embeddings.num_embeddings
        self.tokenizer = self.tokenizer or BertTokenizer(self.tokenizer_path, vocabulary, self.max_text_tokens)

    def forward(
        self, features_BND: Tensor, text: PackedText, image_ids_B: Tensor, uniform_B2: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the global batch.

        Args: image features [B, N, W]; captions, packed on the host; image ids int64 [B]; two uniform numbers per
        row, which draw ITM's negatives.
        Returns: itc, itm, itg (those that are on) and total, their weighted sum; scalars.
        """
        return self.losses(features_BND, text, image_ids_B, uniform_B2)[0]

    def losses(
        self,
        features_BND: Tensor,
        text: PackedText,
        image_ids_B: Tensor,
        uniform_B2: Tensor,
        reads_queries: bool = False,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """forward's losses, and the outputs of the pass of queries alone [B, Q, D].

        reads_queries: the caller makes a loss of these outputs too; otherwise they are None where neither ITC nor ITG
        needs the pass.
        """
        image = self.qformer.project_image(features_BND)
        captions = [] if self.itg is None else [text.with_first_token(self.tokenizer.dec)]
        text, *captions = self.qformer.embed_texts([text, *captions])
        query_BQD, text_cls_BD, caption_LD = self._first_passes(reads_queries, image, text, *captions)
        losses, idle = {}, []
        itc = None
        if self.itc is not None:
            itc = self.itc(query_BQD, text_cls_BD, image_ids_B)
            losses["itc"] = itc["loss"]
        if self.itm is not None:
            pairs, labels_R, weights_R = self._pairs(features_BND, image, text, image_ids_B, uniform_B2, itc)
            outputs = self.qformer(pairs)
            query_RQD = torch.cat([output.query_RQD for output in outputs])
            losses["itm"] = self.itm(query_RQD, labels_R, weights_R)["loss"]
            idle += [output.text_LD for output in outputs if output.text_LD is not None]
        if self.itg is not None:
            places_L, targets_L = text.next_tokens()
            words_VD = self.qformer.word_embeddings.weight
            losses["itg"] = self.itg(caption_LD.index_select(0, places_L), targets_L, words_VD)["loss"]
            idle += [] if self.itc is not None or reads_queries else [query_BQD]
        losses["total"] = sum(getattr(self, name).weight * loss for name, loss in losses.items())
        # Last-layer rows that no loss reads still get a gradient, zero, or DDP would miss their parameters.
        losses["total"] = losses["total"] + 0 * sum(rows.sum() for rows in idle)
        return losses, query_BQD

    def _first_passes(
        self, reads_queries: bool, image: ImageKV, text: PackedText, caption: PackedText | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Query outputs [B, Q, D], [CLS] outputs [B, D] for ITC, text outputs [L, D] for ITG; None for what nobody
        asked."""
        if self.itc is None and self.itg is None and not reads_queries:
            return None, None, None
        passes = [Pass(masks.UNIMODAL, image=image)]
        if self.itc is not None:
            passes.append(Pass(masks.UNIMODAL, text=text, read="first"))
        if self.itg is not None:
            passes.append(Pass(masks.MULTIMODAL_CAUSAL, text=caption, context=0))
        outputs = self.qformer(passes)
        cls_BD = None if self.itc is None else outputs[1].text_LD
        return outputs[0].query_RQD, cls_BD, None if self.itg is None else outputs[-1].text_LD

    def _pairs(
        self,
        features_BND: Tensor,
        image: ImageKV,
        text: PackedText,
        ids_B: Tensor,
        uniform_B2: Tensor,
        itc: dict[str, Tensor] | None,
    ) -> tuple[list[Pass], Tensor, Tensor]:
        """ITM's pairs (image, text): (i, i), (i, drawn text), (drawn image, i); labels [3B], weights [3B]."""
        ids_N = gather(ids_B)
        zeros_BN = features_BND.new_zeros(len(ids_B), len(ids_N), dtype=torch.float32)
        hard = itc is not None and self.itm.hard_negatives
        image_to_text_BN = itc["image_to_text_BN"] if hard else zeros_BN
        text_to_image_BN = itc["text_to_image_BN"] if hard else zeros_BN
        texts_B, text_ok_B = draw_negatives(image_to_text_BN, ids_B, ids_N, uniform_B2[:, 0])
        images_B, image_ok_B = draw_negatives(text_to_image_BN, ids_B, ids_N, uniform_B2[:, 1])
        other_text, other_image = self._negatives(features_BND, image, text, texts_B, images_B)
        # By itself, ITM reads the last text rows after all, for the parameters that they alone use.
        read = "all" if self.itc is None and self.itg is None else "none"
        pairs = [
            Pass(masks.BIDIRECTIONAL, image=image, text=text, read=read),
            Pass(masks.BIDIRECTIONAL, image=image, text=other_text, read=read),
            Pass(masks.BIDIRECTIONAL, image=other_image, text=text, read=read),
        ]
        labels_R = torch.cat([torch.ones_like(ids_B), torch.zeros_like(ids_B), torch.zeros_like(ids_B)])
        return pairs, labels_R, torch.cat([torch.ones_like(text_ok_B), text_ok_B, image_ok_B])

    def _negatives(
        self, features_BND: Tensor, image: ImageKV, text: PackedText, texts_B: Tensor, images_B: Tensor
    ) -> tuple[PackedText, ImageKV]:
        """Drawn texts, and keys and values of drawn images; between ranks features travel, never keys and values."""
        if world_size() == 1:
            return text.select(texts_B), image.select(images_B)
        ids_NT, lengths_N = gather(text.padded(self.max_text_tokens)), gather(text.lengths_B)
        others = PackedText.from_padded(ids_NT[texts_B], lengths_N[texts_B])
        return others, self.qformer.project_image(gather(features_BND)[images_B])

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
