"""Recall at k of image-to-text ("txt") and text-to-image ("img") retrieval, and re-ranking by ITM.

Suffixes: I images, T texts, Q query tokens, K candidates, P pairs (of vectors: projection width). Scores are larger for
better matches. Every function works on the device of its scores.
"""

from typing import NamedTuple

import numpy as np
import torch

from lit_blip2.evaluation.items import Items

KS = (1, 5, 10)
ROWS_AT_ONCE = 256
MOST_TEXTS = 1000  # of an image: text ids count in these steps


class Candidates(NamedTuple):
    """The k best texts of each image and the k best images of each text, best first.

    texts_IK, images_TK: int64. pairs_P2: int64, every (image, text) that is a candidate in either direction, once,
    sorted by image. place_IK, place_TK: int64, the row of each candidate in pairs_P2.
    """

    texts_IK: torch.Tensor
    images_TK: torch.Tensor
    pairs_P2: torch.Tensor
    place_IK: torch.Tensor
    place_TK: torch.Tensor


def similarity(image_IQP: torch.Tensor, text_TP: torch.Tensor) -> torch.Tensor:
    """Cosine of each text with each image's best query, float [I, T], from unit vectors.

    Autocast is off: bf16 would round cosines that a temperature of 0.01 then multiplies by 100.
    """
    with torch.autocast(image_IQP.device.type, enabled=False):
        return (image_IQP.flatten(0, 1) @ text_TP.T).unflatten(0, image_IQP.shape[:2]).amax(dim=1)


def ranks(scores_IT: torch.Tensor, image_of_text_T: torch.Tensor) -> dict[str, torch.Tensor]:
    """Rank, from 1, of each image's best own text ("txt", int64 [I]) and of each text's image ("img", int64 [T]).

    A match ranks behind all others of the same score, so a constant score gives no recall, nor does a match at -inf.

    Args:
        scores_IT: float, larger is better.
        image_of_text_T: int64, the row of each text's image; an image may have several texts.
    Raises:
        ValueError: a score is NaN, shapes do not fit, or an image has no text.
    """
    if scores_IT.ndim != 2 or image_of_text_T.shape != scores_IT.shape[1:]:
        raise ValueError(f"scores {tuple(scores_IT.shape)} do not fit {tuple(image_of_text_T.shape)} texts' images")
    if len(alone := set(range(len(scores_IT))) ^ set(image_of_text_T.tolist())):
        raise ValueError(f"{len(scores_IT)} images, but row {min(alone)} has no text or does not exist")
    _refuse_nan(scores_IT)
    return {"txt": _text_ranks(scores_IT, image_of_text_T), "img": _image_ranks(scores_IT.T, image_of_text_T)}


def recall_items(
    ranks: dict[str, torch.Tensor], image_ids_I: torch.Tensor, image_of_text_T: torch.Tensor, prefix: str
) -> dict[str, Items]:
    """{prefix}_txt_r{1,5,10} and {prefix}_img_r{1,5,10}: per-example values, 1 if the rank is at most k, else 0. Their
    means are the recalls. Texts have the ids of `text_numbers`."""
    image_ids, owners = image_ids_I.cpu().numpy(), image_of_text_T.cpu().numpy()
    texts = text_numbers(image_ids, owners)
    of = {"txt": (image_ids, image_ids), "img": (image_ids[owners], texts)}
    return {
        f"{prefix}_{way}_r{k}": Items((rank <= k).cpu().numpy().astype(np.float32), *of[way])
        for way, rank in ranks.items()
        for k in KS
    }


def text_numbers(image_ids: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The id of each text, int64 [T]: 1000 * (image id) + (its place among the image's texts)."""
    order = np.argsort(owners, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.searchsorted(owners[order], owners[order])
    return image_ids[owners] * MOST_TEXTS + place


def candidates(scores_IT: torch.Tensor, k: int = 128) -> Candidates:
    """The k best texts of each image and images of each text, for re-ranking. With fewer than k, all of them. Which of
    several equal scores are chosen is not defined."""
    count_I, count_T = scores_IT.shape
    texts_IK = scores_IT.topk(min(k, count_T), dim=1).indices
    images_TK = scores_IT.topk(min(k, count_I), dim=0).indices.T
    rows_I, rows_T = (torch.arange(count, device=scores_IT.device)[:, None] for count in (count_I, count_T))
    numbers = torch.cat([(rows_I * count_T + texts_IK).flatten(), (images_TK * count_T + rows_T).flatten()])
    pairs_P, place = numbers.unique(return_inverse=True)
    place_IK, place_TK = place.split([texts_IK.numel(), images_TK.numel()])
    return Candidates(
        texts_IK,
        images_TK,
        torch.stack([pairs_P // count_T, pairs_P % count_T], dim=1),
        place_IK.view_as(texts_IK),
        place_TK.view(images_TK.shape),
    )


def rerank(
    found: Candidates, cosine_P: torch.Tensor, itm_P: torch.Tensor, mode: str, image_of_text_T: torch.Tensor
) -> dict[str, torch.Tensor]:
    """`ranks` of the candidates by another score. A match that is not a candidate ranks behind all others.

    Args:
        cosine_P: ITC's cosine of each pair, not divided by the temperature. itm_P: ITM's logit of "match".
        mode: the score to rank by, see `by_mode`.
    Raises:
        ValueError: a score is NaN, or the mode is unknown.
    """
    scores_P = by_mode(cosine_P, itm_P, mode)
    images, texts = len(found.texts_IK), len(found.images_TK)
    own_IK = image_of_text_T[found.texts_IK] == torch.arange(images, device=scores_P.device)[:, None]
    own_TK = found.images_TK == image_of_text_T[:, None]
    others_I = texts - torch.bincount(image_of_text_T, minlength=images)
    others_T = torch.full_like(image_of_text_T, images - 1)
    return {
        "txt": _candidate_ranks(scores_P[found.place_IK], own_IK, others_I),
        "img": _candidate_ranks(scores_P[found.place_TK], own_TK, others_T),
    }


def by_mode(cosine_P: torch.Tensor, itm_P: torch.Tensor, mode: str) -> torch.Tensor:
    """Scores of the pairs: mode "itc" keeps the cosine, "itm" takes the logit, "sum" adds the two, as LAVIS does
    (docs/numerics.md, Retrieval). Raises ValueError for nan and for another mode."""
    if mode not in ("itc", "itm", "sum"):
        raise ValueError(f"mode {mode!r} is none of itc, itm, sum")
    itm_P = itm_P.to(cosine_P)
    scores_P = {"itc": cosine_P, "itm": itm_P, "sum": itm_P + cosine_P}[mode]
    _refuse_nan(scores_P)
    return scores_P


def best(found: Candidates, scores_P: torch.Tensor, top: int = max(KS)) -> tuple[torch.Tensor, torch.Tensor]:
    """The best texts of each image and the best images of each text, by scores of the pairs: int64 [I, top] and
    [T, top], best first; fewer where there are fewer candidates."""
    places = (found.place_IK, found.place_TK)
    order_IK, order_TK = (scores_P[each].argsort(dim=1, descending=True, stable=True)[:, :top] for each in places)
    return found.texts_IK.gather(1, order_IK), found.images_TK.gather(1, order_TK)


def _candidate_ranks(scores_RK: torch.Tensor, own_RK: torch.Tensor, others_R: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of each row's best own candidate. others_R: how many a row has that are not its own, candidates or
    not. All of them rank ahead if the row has no own candidate above -inf."""
    best_R = scores_RK.masked_fill(~own_RK, float("-inf")).amax(1)
    ahead_R = ((scores_RK >= best_R[:, None]) & ~own_RK).sum(1)
    return 1 + torch.where(best_R.isneginf(), others_R, ahead_R)


def _text_ranks(scores_IT: torch.Tensor, image_of_text_T: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of the best own text of each image among the texts of other images."""
    own_T = scores_IT[image_of_text_T, torch.arange(len(image_of_text_T), device=scores_IT.device)]
    best_I = own_T.new_full((len(scores_IT),), float("-inf")).scatter_reduce(0, image_of_text_T, own_T, "amax")
    own_at_best_T = (own_T >= best_I[image_of_text_T]).long()
    own_at_best_I = torch.zeros_like(best_I, dtype=torch.long).scatter_add(0, image_of_text_T, own_at_best_T)
    return 1 + _at_least(scores_IT, best_I) - own_at_best_I


def _image_ranks(scores_TI: torch.Tensor, image_of_text_T: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of the image of each text among all images."""
    return _at_least(scores_TI, scores_TI.gather(1, image_of_text_T[:, None]).squeeze(1))


def _at_least(scores_RC: torch.Tensor, bound_R: torch.Tensor) -> torch.Tensor:
    """How many scores of each row are at least the row's bound. In parts: a comparison of all rows at once, made
    numbers to be added, would be another such matrix."""
    parts = zip(scores_RC.split(ROWS_AT_ONCE), bound_R.split(ROWS_AT_ONCE))
    return torch.cat([(part >= bound[:, None]).sum(1, dtype=torch.int32) for part, bound in parts])


def _refuse_nan(scores: torch.Tensor) -> None:
    if torch.isnan(scores.amax()):  # nan if any is
        raise ValueError("a score is nan: no rank can be given")
