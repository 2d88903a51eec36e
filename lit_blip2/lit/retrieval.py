"""Retrieval and binding with a stage-1 network: collected batch by batch, scored at the end.

Legend: B images of a batch, I images, T texts, N image tokens, Q query tokens, P projection width, W image width.
"""

from itertools import chain
from typing import Any

import torch
from torch import Tensor

from lit_blip2.evaluation.binding import binding_accuracy
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.retrieval import candidate_pairs, candidates, ranks, recall_items, rerank
from lit_blip2.lit.gather import gather_lists
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.itc import similarity
from lit_blip2.objectives.stage1 import Stage1

PAIRS_PER_PASS = 512


class RetrievalSet:
    """Images and texts seen so far. `rerank`: candidates per image and per text that ITM scores. `items`: after
    `metrics`, what stands behind the recalls."""

    def __init__(self, net: Stage1, rerank: int):
        self.net, self.rerank = net, rerank
        self.rows: list[dict[str, Any]] = []
        self.binding: list[dict[str, Any]] = []
        self.items: dict[str, Items] = {}

    @torch.no_grad()
    def add(self, features_BND: Tensor, text: PackedText, image_ids_B: Tensor, counts: list[int]) -> None:
        """A batch: image features, all texts of its images one after another, and how many each image has."""
        row = {"features": features_BND.cpu(), "counts": counts, "image_ids": image_ids_B.tolist()}
        row["ids"] = [ids[:n] for ids, n in zip(text.padded().tolist(), text.lengths_B.tolist())]
        if self.net.itc is not None:
            row["image"] = self.net.encode_images(features_BND)[0].cpu()
            row["text"] = self.net.encode_texts(text).cpu()
        self.rows.append(row)

    @torch.no_grad()
    def add_binding(self, features_BND: Tensor, swapped_BND: Tensor, text: PackedText) -> None:
        """Texts with the scene they describe and the one with attributes swapped."""
        scores = {}
        for features, name in ((features_BND, "true"), (swapped_BND, "swapped")):
            image_BQP, image = self.net.encode_images(features)
            if image_BQP is not None:
                text_BP = self.net.encode_texts(text)
                scores["itc", name] = torch.einsum("bqp,bp->bq", image_BQP, text_BP).amax(1).tolist()
            if self.net.itm is not None:
                scores["itm", name] = self.net.match_logits(image, text)[:, 1].tolist()
        self.binding.append(scores)

    def metrics(self) -> dict[str, float]:
        """retrieval/{itc,itm,sum}_{txt,img}_r{1,5,10} and binding/{itc,itm}_accuracy, as far as the net has heads."""
        rows, binding = gather_lists(self.rows), gather_lists(self.binding)
        metrics = self._retrieval(rows) if rows and self.net.itc is not None else {}
        for head in ("itc", "itm"):
            true, swapped = (list(chain(*(b.get((head, name), []) for b in binding))) for name in ("true", "swapped"))
            if true:
                metrics[f"binding/{head}_accuracy"] = binding_accuracy(torch.tensor(true), torch.tensor(swapped))
        return metrics

    def query_wins(self) -> Tensor | None:
        """Which query wins the maximum for each image of all ranks and its first text, int64 [I]; None without ITC."""
        wins = gather_lists(list(chain(*(self._winners(row) for row in self.rows if "image" in row))))
        return torch.tensor(wins) if wins else None

    def _winners(self, row: dict[str, Any]) -> list[int]:
        first = torch.tensor([0, *row["counts"]][:-1]).cumsum(0)
        return torch.einsum("iqp,ip->iq", row["image"], row["text"][first]).argmax(1).tolist()

    def _retrieval(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        text_TP = torch.cat([row["text"] for row in rows])
        counts = torch.tensor(list(chain(*(row["counts"] for row in rows))))
        image_of_text_T = torch.repeat_interleave(counts)
        # Image batch by image batch: all images, queries and texts at once would not fit.
        cosine_IT = torch.cat([similarity(row["image"], text_TP) for row in rows])
        ids_I = torch.tensor(list(chain(*(row["image_ids"] for row in rows))))
        found = ranks(cosine_IT, image_of_text_T)
        self.items = recall_items(found, ids_I, image_of_text_T, "retrieval/itc")
        if self.net.itm is None:
            return {name: each.mean() for name, each in self.items.items()}
        texts_IK, images_TK = candidates(cosine_IT, self.rerank)
        pairs_R2 = candidate_pairs(texts_IK, images_TK)
        match_R = self._match(rows, pairs_R2)
        for mode in ("itm", "sum"):
            by_image_IT, by_text_TI = rerank(cosine_IT, texts_IK, images_TK, pairs_R2, match_R, mode)
            found = ranks(by_image_IT, image_of_text_T, by_text_TI)
            self.items |= recall_items(found, ids_I, image_of_text_T, f"retrieval/{mode}")
        return {name: each.mean() for name, each in self.items.items()}

    @torch.no_grad()
    def _match(self, rows: list[dict[str, Any]], pairs_R2: Tensor) -> Tensor:
        """ITM's logit of "match" for (image, text) pairs sorted by image, float [R]; an image is projected once."""
        text = PackedText.from_lists(list(chain(*(row["ids"] for row in rows))))
        device = self.net.qformer.query_tokens.device
        logits, first = [], 0
        for row in rows:
            images = len(row["counts"])
            begin, end = torch.searchsorted(pairs_R2[:, 0].contiguous(), torch.tensor([first, first + images]))
            image = self.net.qformer.project_image(row["features"].to(device))
            for pairs in pairs_R2[begin:end].split(PAIRS_PER_PASS):
                chosen = image.select((pairs[:, 0] - first).to(device))
                logits.append(self.net.match_logits(chosen, text.select(pairs[:, 1]).to(device))[:, 1].float().cpu())
            first += images
        return torch.cat(logits)
