"""Retrieval and binding with a stage-1 network: collected batch by batch, scored at the end.

Each rank keeps the features of its own images and scores their pairs. Ranks exchange ITC's vectors, token ids and ITM's
logits. Of COCO's 5,000 images and 25,000 texts, k = 128, every rank holds at most

    features    7.2 GB at 257 tokens of 1408 in 32 bits, 3.6 GB in 16 (677 tokens: 19.1 and 9.5), divided by the number
                of ranks; beyond `features_gb` they lie on disk
    ITC         the vectors, 190 MB, twice while they are joined (with several ranks, a rank's own twice more). Then
                their cosines, 500 MB, and a part of them again while candidates and ranks are computed. Only the
                vectors are left when the first pair is scored
    pairs       3.84 million at most, with their places, cosines and logits: 155 MB
    a pass      of 256 pairs looks at one image: its keys and values are 9.5 MB at 257 tokens (25 MB at 677), in 32
                bits; with 128 pairs it takes 230 MB at its peak (benchmarks/retrieval.py)

Legend: B images of a batch, I images, T texts, N image tokens, Q query tokens, P projection width, W image width,
R pairs, L tokens of all texts.
"""

from collections.abc import Iterable

import torch
from rich.progress import track
from torch import Tensor

from lit_blip2.distributed import gather_lists, gather_rows, rank
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.metrics import BindingAccuracy
from lit_blip2.evaluation.recall import RetrievalRecall, Retrieved
from lit_blip2.lit.evaluators.feature_buffer import FeatureBuffer
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.stage1 import Stage1

PAIRS_PER_PASS = 256
LONG = 100_000  # pairs from which on a progress bar is shown


class RetrievalSet:
    """Collects images and texts, and scores them.

    items: after `metrics`, the per-example values behind each metric. retrieved: after `metrics`, what was ranked.

    Args:
        rerank: candidates per image and per text that ITM scores.
        features_gb: GB of this rank's features in RAM.
    """

    def __init__(self, net: Stage1, rerank: int, features_gb: float = 8.0):
        self.net = net
        self.features = FeatureBuffer(features_gb)
        self.rows: list[dict[str, Tensor]] = []
        match = None if net.itm is None else self._match
        self.recall = None if net.itc is None else RetrievalRecall(match, rerank)
        self.binding = {head: BindingAccuracy(head) for head in ("itc", "itm") if getattr(net, head) is not None}
        self.items: dict[str, Items] = {}
        self.retrieved: Retrieved | None = None

    @torch.no_grad()
    def add(self, features_BND: Tensor, text: PackedText, image_ids_B: Tensor, counts: list[int]) -> None:
        """Add a batch: image features, all texts of its images one after another, and how many each image has."""
        if self.recall is None:
            return
        image_BQP, text_TP = self.net.encode_images(features_BND)[0], self.net.encode_texts(text)
        self.recall.update(image_BQP, text_TP, counts, image_ids_B)
        first_B = torch.tensor([0, *counts[:-1]]).cumsum(0).to(text_TP.device)
        wins_B = torch.einsum("iqp,ip->iq", image_BQP, text_TP[first_B]).argmax(1)
        row = {"wins": wins_B, "ids": text.ids_L, "lengths": text.lengths_B}
        self.rows.append({name: each.cpu() for name, each in row.items()})
        if self.net.itm is not None:
            self.features.add(features_BND)

    @torch.no_grad()
    def add_binding(
        self, features_BND: Tensor, swapped_BND: Tensor, text: PackedText, image_ids_B: Tensor, rows_B: Tensor
    ) -> None:
        """Add binding pairs: features of the image that each text describes, features of the image with attributes
        swapped, the texts, ids of the described images, and ids of the pairs."""
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
        """retrieval/{itc,itm,sum}_{txt,img}_r{1,5,10} and binding/{itc,itm}_accuracy, for the heads that the network
        has. Call it once: it frees the vectors."""
        metrics = [*filter(None, [self.recall]), *self.binding.values()]
        seen = gather_lists([[each.update_called for each in metrics]])
        for metric, *on_ranks in zip(metrics, *seen):
            if any(on_ranks):
                metric.compute()
                self.items |= metric.items
        if self.recall is not None:
            self.retrieved = self.recall.retrieved
            self.recall.reset()  # a torchmetrics.Metric refers to itself: what it holds would outlive this object
            self.recall.match = None
        return {name: each.value() for name, each in self.items.items()}

    def query_wins(self) -> Tensor | None:
        """Which query wins the maximum for each image of all ranks and its first text, int64 [I]; None without ITC."""
        return self._gathered("wins")

    def _gathered(self, name: str) -> Tensor | None:
        """A column of all ranks; None if it is empty. Call it once for each column: it frees this rank's part."""
        parts = [row.pop(name) for row in self.rows]
        rows = torch.cat(gather_rows(torch.cat(parts) if parts else torch.empty(0)))
        return rows if len(rows) else None

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

    An image is projected once, and all texts of a pass attend to its one set of keys and values.

    Args: image features [N, W] each; texts on the host; pairs (index of the image, text), int64, sorted by image, each
    image with one at least; whether to show a progress bar if there are many.
    """
    device, logits = net.qformer.query_tokens.device, []
    texts_of = pairs_R2[:, 1].split(torch.bincount(pairs_R2[:, 0]).tolist())
    shown = dict(total=len(texts_of), disable=not bar or len(pairs_R2) < LONG)
    for features_NW, texts_R in track(zip(features, texts_of, strict=True), "re-ranking images", **shown):
        image = net.qformer.project_image(features_NW[None].to(device))
        for chosen_R in texts_R.split(PAIRS_PER_PASS):
            chosen = text.select(chosen_R).to(device)
            logits.append(net.match_logits(image.repeat(len(chosen)), chosen)[:, 1].float())
    return torch.cat(logits).cpu() if logits else torch.empty(0)  # copied at the end: one wait for the device
