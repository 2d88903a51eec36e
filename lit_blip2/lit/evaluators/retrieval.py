"""Retrieval and binding with a stage-1 network: collected batch by batch, scored at the end.

Each rank keeps the features of its own images and scores their pairs; between ranks ITC's vectors, token ids and ITM's
logits travel. Of COCO's 5,000 images and 25,000 texts, k = 128, every rank holds at most

    features    7.2 GB at 257 tokens of 1408 in 32 bits, 3.6 GB in 16 (677 tokens: 19.1 and 9.5), over the number of
                ranks; beyond `features_gb` they lie on disk
    ITC         the vectors, 190 MB, twice while they are joined; then their cosines, 500 MB, and a part of
                them again while candidates and ranks are taken; all gone before the first pair is scored
    pairs       3.84 million at most, with their places, cosines and logits: 155 MB
    a pass      of 256 pairs looks at one image: its keys and values are 9.5 MB at 257 tokens (25 MB at 677), in 32
                bits; with 128 pairs it takes 230 MB at its peak (benchmarks/retrieval.py)

Legend: B images of a batch, I images, T texts, N image tokens, Q query tokens, P projection width, W image width,
R pairs, L tokens of all texts.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from lit_blip2.distributed import gather_lists, gather_rows, rank
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.metrics import BindingAccuracy
from lit_blip2.evaluation.retrieval import (
    Candidates,
    best,
    by_mode,
    candidates,
    ranks,
    recall_items,
    rerank,
    text_numbers,
)
from lit_blip2.lit.evaluators.feature_buffer import FeatureBuffer
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.itc import similarity
from lit_blip2.objectives.stage1 import Stage1

PAIRS_PER_PASS = 256
IMAGES_AT_ONCE = 32  # whose queries meet all texts: 100 MB for 25,000
LONG = 100_000  # pairs from which a bar shows how far it is


class Retrieved(NamedTuple):
    """Of all ranks: image ids, the row of each text's image, the candidates, and their pairs' cosines and ITM logits
    (None without ITM)."""

    ids_I: Tensor
    image_of_text_T: Tensor
    candidates: Candidates
    cosine_P: Tensor
    match_P: Tensor | None

    def predictions(self) -> Iterator[dict[str, Any]]:
        """Of each mode the ten best texts of each image and the ten best images of each text. A text's number is its
        image's id with its place among that image's texts behind it."""
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


class RetrievalSet:
    """Images and texts seen so far. `rerank`: candidates per image and per text that ITM scores. `features_gb`: GB of
    this rank's features in RAM. `items`: after `metrics`, what stands behind them."""

    def __init__(self, net: Stage1, rerank: int, features_gb: float = 8.0):
        self.net, self.rerank = net, rerank
        self.features = FeatureBuffer(features_gb)
        self.rows: list[dict[str, Tensor]] = []
        self.binding = {head: BindingAccuracy(head) for head in ("itc", "itm") if getattr(net, head) is not None}
        self.items: dict[str, Items] = {}
        self.retrieved: Retrieved | None = None

    @torch.no_grad()
    def add(self, features_BND: Tensor, text: PackedText, image_ids_B: Tensor, counts: list[int]) -> None:
        """A batch: image features, all texts of its images one after another, and how many each image has."""
        if self.net.itc is None:
            return
        image_BQP, text_TP = self.net.encode_images(features_BND)[0], self.net.encode_texts(text)
        counts_B = torch.tensor(counts)
        first_TP = text_TP[(counts_B.cumsum(0) - counts_B).to(text_TP.device)]
        row = {"image": image_BQP, "text": text_TP, "image_ids": image_ids_B, "counts": counts_B}
        row |= {"ids": text.ids_L, "lengths": text.lengths_B}
        row["wins"] = torch.einsum("iqp,ip->iq", image_BQP, first_TP).argmax(1)
        self.rows.append({name: each.cpu() for name, each in row.items()})
        if self.net.itm is not None:
            self.features.add(features_BND)

    @torch.no_grad()
    def add_binding(
        self, features_BND: Tensor, swapped_BND: Tensor, text: PackedText, image_ids_B: Tensor, rows_B: Tensor
    ) -> None:
        """Texts with the scene they describe and the one with attributes swapped; the ids of the first, and the
        numbers of the pairs."""
        scores: dict[str, list[Tensor]] = {head: [] for head in self.binding}
        for features in (features_BND, swapped_BND):
            image_BQP, image = self.net.encode_images(features)
            if image_BQP is not None:
                text_BP = self.net.encode_texts(text)
                scores["itc"].append(torch.einsum("bqp,bp->bq", image_BQP, text_BP).amax(1))
            if self.net.itm is not None:
                scores["itm"].append(self.net.match_logits(image, text)[:, 1])
        for head, (true_B, swapped_B) in scores.items():
            self.binding[head].update(true_B, swapped_B, image_ids_B, rows_B)

    def metrics(self) -> dict[str, float]:
        """retrieval/{itc,itm,sum}_{txt,img}_r{1,5,10} and binding/{itc,itm}_accuracy, as far as the net has heads."""
        self.items = self._retrieval()
        if any(gather_lists([each.update_called for each in self.binding.values()])):
            for each in self.binding.values():
                each.compute()
                self.items |= each.items
        return {name: each.value() for name, each in self.items.items()}

    def query_wins(self) -> Tensor | None:
        """Which query wins the maximum for each image of all ranks and its first text, int64 [I]; None without ITC."""
        return self._gathered("wins")

    def _gathered(self, name: str) -> Tensor | None:
        """A column of all ranks, once: this rank's own part is let go."""
        parts = [row.pop(name) for row in self.rows]
        rows = torch.cat(gather_rows(torch.cat(parts) if parts else torch.empty(0)))
        return rows if len(rows) else None

    def _retrieval(self) -> dict[str, Items]:
        counts_I, ids_I = self._gathered("counts"), self._gathered("image_ids")
        if counts_I is None:
            return {}
        image_of_text_T = torch.repeat_interleave(counts_I)
        by_itc, found, cosine_P = self._contrast(image_of_text_T)
        items = recall_items(by_itc, ids_I, image_of_text_T, "retrieval/itc")
        match_P = None
        if self.net.itm is not None:
            match_P = self._match(found.pairs_P2)
            for mode in ("itm", "sum"):
                again = rerank(found, cosine_P, match_P, mode, image_of_text_T)
                items |= recall_items(again, ids_I, image_of_text_T, f"retrieval/{mode}")
        self.retrieved = Retrieved(ids_I, image_of_text_T, found, cosine_P, match_P)
        return items

    def _contrast(self, image_of_text_T: Tensor) -> tuple[dict[str, Tensor], Candidates, Tensor]:
        """Ranks by ITC, the candidates that it gives to ITM, and the cosines of their pairs. Every rank for itself."""
        cosine_IT = self._cosines()
        found = candidates(cosine_IT, self.rerank)
        return ranks(cosine_IT, image_of_text_T), found, cosine_IT[tuple(found.pairs_P2.T)]

    def _cosines(self) -> Tensor:
        """Of all images and texts, float [I, T]."""
        image_IQP, text_TP = self._gathered("image"), self._gathered("text")
        cosine_IT = text_TP.new_empty(len(image_IQP), len(text_TP))
        for image_BQP, cosine_BT in zip(image_IQP.split(IMAGES_AT_ONCE), cosine_IT.split(IMAGES_AT_ONCE)):
            cosine_BT.copy_(similarity(image_BQP, text_TP))
        return cosine_IT

    def _match(self, pairs_P2: Tensor) -> Tensor:
        """ITM's logit for all pairs, float [P]; each rank scores those of its own images."""
        text = PackedText.from_packed(self._gathered("ids"), self._gathered("lengths"))
        images_of_ranks = gather_lists([len(self.features)])
        first = sum(images_of_ranks[: rank()])
        begin, end = torch.searchsorted(pairs_P2[:, 0].contiguous(), torch.tensor([first, first + len(self.features)]))
        own_R2 = pairs_P2[begin:end] - torch.tensor([first, 0])
        logits_R = match_pairs(self.net, self.features, text, own_R2, bar=rank() == 0)
        return torch.cat(gather_rows(logits_R))


@torch.no_grad()
def match_pairs(net: Stage1, features: Iterable[Tensor], text: PackedText, pairs_R2: Tensor, bar: bool) -> Tensor:
    """ITM's logit of "match" for pairs of an image and a text, float [R], on the CPU.

    An image is projected once, and all texts of a pass look at its one set of keys and values.

    Args: image features [N, W] each; texts on the host; pairs (place of the image, text), int64, sorted by image, each
    image with one at least; whether to show how far it is where there are many.
    """
    device, logits = net.qformer.query_tokens.device, []
    texts_of = pairs_R2[:, 1].split(torch.bincount(pairs_R2[:, 0]).tolist())
    shown = dict(total=len(texts_of), disable=not bar or len(pairs_R2) < LONG)
    for features_NW, texts_R in track(zip(features, texts_of, strict=True), "re-ranking images", **shown):
        image = net.qformer.project_image(features_NW[None].to(device))
        for chosen_R in texts_R.split(PAIRS_PER_PASS):
            chosen = text.select(chosen_R).to(device)
            logits.append(net.match_logits(image.repeat(len(chosen)), chosen)[:, 1].float())
    return torch.cat(logits).cpu() if logits else torch.empty(0)  # brought over at the end: one wait for a device
