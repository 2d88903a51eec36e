"""RetrievalRecall, a torchmetrics.Metric: recall of image-text retrieval, with and without re-ranking.

Legend: B images of a batch, I images, T texts, Q query tokens, P projection width or pairs, K candidates.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_blip2.evaluation.item_metric import ItemMetric, same_lengths
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.retrieval import (
    Candidates,
    best,
    by_mode,
    candidates,
    ranks,
    recall_items,
    rerank,
    similarity,
    text_numbers,
)

IMAGES_AT_ONCE = 32  # compared with all texts: 100 MB for 25,000
Match = Callable[[Tensor], Tensor]


class Retrieved(NamedTuple):
    """What was ranked, of all ranks: image ids, the index of each text's image, the candidates, and for each candidate
    pair its cosine and its score by `match` (None without it)."""

    ids_I: Tensor
    image_of_text_T: Tensor
    candidates: Candidates
    cosine_P: Tensor
    match_P: Tensor | None

    def predictions(self) -> Iterator[dict[str, Any]]:
        """For each mode (itc, itm, sum), the ten best texts of each image and the ten best images of each text.

        A text has the id 1000 * (image id) + (its place among the image's texts).
        """
        image_ids, owners = self.ids_I.cpu().numpy(), self.image_of_text_T.cpu().numpy()
        numbers, scores = text_numbers(image_ids, owners), {"itc": self.cosine_P}
        if self.match_P is not None:
            scores |= {mode: by_mode(self.cosine_P, self.match_P, mode) for mode in ("itm", "sum")}
        for mode, scores_P in scores.items():
            texts_I, images_T = (rows.cpu().numpy() for rows in best(self.candidates, scores_P))
            about = {"task": "retrieval", "mode": mode}
            for number, texts in zip(image_ids.tolist(), numbers[texts_I].tolist()):
                yield about | {"image_id": number, "texts": texts}
            for number, images in zip(numbers.tolist(), image_ids[images_T].tolist()):
                yield about | {"text": number, "image_ids": images}


class RetrievalRecall(ItemMetric):
    """Recall at 1, 5 and 10, 0..1, of image-to-text (txt) and text-to-image (img) retrieval.

    txt is the share of images with one of their own texts among the k best, img the share of texts with their image
    among the k best. A tie counts against the match. `compute` ranks by cosine, and returns
    retrieval/itc_{txt,img}_r{1,5,10}, float32 scalars. With `match`, the best candidates by cosine are ranked again by
    match's score (retrieval/itm_*) and by the sum of both scores (retrieval/sum_*), as in BLIP-2 (arXiv 2301.12597,
    section 4.4).

    retrieved: after `compute`, what was ranked; None before. The states are the vectors, on the CPU: 32 kB per image
    with 32 queries of width 256, 1 kB per text.

    Args:
        match: function that scores pairs, such as ITM's logit of "match". It takes int64 [P, 2], the (image, text)
            indices among the images and texts of all ranks, sorted by image, and returns float [P] on the CPU. Every
            rank calls it with all pairs, and it must return the same values on each.
        rerank: candidates per image and per text that `match` scores (the paper's k is 128).

    Example:
        >>> metric = RetrievalRecall()
        >>> metric.update(torch.eye(3), torch.eye(3))
        >>> metric.compute()["retrieval/itc_txt_r1"]
        tensor(1.)
    """

    def __init__(self, match: Match | None = None, rerank: int = 128, **kwargs: Any):
        if rerank < 1:
            raise ValueError(f"rerank={rerank} must be at least 1")
        super().__init__(**{"compute_on_cpu": True} | kwargs)
        self.match, self.rerank = match, rerank
        self.retrieved: Retrieved | None = None
        for state in ("images", "texts", "counts", "image_ids"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        image_BQP: Tensor,
        text_TP: Tensor,
        counts: Sequence[int] | None = None,
        image_ids_B: Tensor | None = None,
    ) -> None:
        """Add a batch of images with their texts.

        Args:
            image_BQP: unit vectors, float [B, P]; or [B, Q, P], of which the query closest to a text counts.
            text_TP: unit vectors of all texts, float [T, P], sorted by image.
            counts: number of texts of each image; None: one each.
            image_ids_B: int64 [B], each once, for confidence intervals.
        Raises:
            ValueError: numbers that do not fit each other, or an image without texts.
        """
        same_lengths({"images": image_BQP, "counts": counts, "image_ids": image_ids_B})
        counts = [1] * len(image_BQP) if counts is None else list(counts)
        if min(counts, default=1) < 1:
            raise ValueError(f"image {counts.index(min(counts))} of the batch has no text: each needs one")
        if sum(counts) != len(text_TP):
            raise ValueError(f"{len(text_TP)} texts, where counts add up to {sum(counts)}")
        self.images.append(image_BQP if image_BQP.ndim > 2 else image_BQP[:, None])
        self.texts.append(text_TP)
        self.counts.append(torch.tensor(counts, dtype=torch.int64, device=text_TP.device))
        if image_ids_B is not None:
            self.image_ids.append(image_ids_B)

    def scored(self) -> dict[str, Items]:
        if (counts_I := self.joined("counts")) is None:
            raise ValueError("there are no images to score: call update before compute")
        ids_I = torch.from_numpy(self.numbers("image_ids", len(counts_I)))
        image_of_text_T = torch.repeat_interleave(counts_I)
        by_itc, found, cosine_P = self._contrast(image_of_text_T)
        ranks_of, match_P = {"itc": by_itc}, None
        if self.match is not None:
            match_P = self.match(found.pairs_P2)
            if match_P.shape != cosine_P.shape:
                raise ValueError(f"match gave {tuple(match_P.shape)} for {len(cosine_P)} pairs: each needs one score")
            ranks_of |= {mode: rerank(found, cosine_P, match_P, mode, image_of_text_T) for mode in ("itm", "sum")}
        self.retrieved = Retrieved(ids_I, image_of_text_T, found, cosine_P, match_P)
        items: dict[str, Items] = {}
        for mode, own_ranks in ranks_of.items():
            items |= recall_items(own_ranks, ids_I, image_of_text_T, f"retrieval/{mode}")
        return items

    def _contrast(self, image_of_text_T: Tensor) -> tuple[dict[str, Tensor], Candidates, Tensor]:
        """Ranks by cosine, the candidates for `match`, and the candidates' cosines. Every rank computes all of it. The
        matrix of all cosines is freed before `match` runs."""
        image_IQP, text_TP = self.joined("images"), self.joined("texts")
        cosine_IT = text_TP.new_empty(len(image_IQP), len(text_TP))
        for image_BQP, cosine_BT in zip(image_IQP.split(IMAGES_AT_ONCE), cosine_IT.split(IMAGES_AT_ONCE)):
            cosine_BT.copy_(similarity(image_BQP, text_TP))
        found = candidates(cosine_IT, self.rerank)
        return ranks(cosine_IT, image_of_text_T), found, cosine_IT[tuple(found.pairs_P2.T)]

    def reset(self) -> None:
        super().reset()
        self.retrieved = None
