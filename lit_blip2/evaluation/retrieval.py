"""Recall at k of image-to-text ("txt") and text-to-image ("img") retrieval, and re-ranking by ITM.

Suffixes: I images, T texts, K candidates, P pairs. Scores are larger for better matches. Every function works on the
device of its scores.
"""

import numpy as np
import torch

from lit_blip2.evaluation.items import Items

KS = (1, 5, 10)
MOST_TEXTS = 1000  # of an image, in the number of an item


def ranks(
    scores_IT: torch.Tensor, image_of_text_T: torch.Tensor, scores_TI: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Rank, from 1, of the best own text of each image ("txt", int [I]) and of the image of each text ("img", [T]).

    image_of_text_T: for every text the row of its image; an image may have several texts. Image-to-text ranks the rows
    of scores_IT, text-to-image those of scores_TI, by default its transpose (re-ranking has other candidates either way
    round).

    Ties count as losses: a match ranks behind every other candidate of the same score, so a constant score recalls
    nothing, and neither does a match at -inf (a pair that re-ranking never saw).

    Raises ValueError for nan, for shapes that do not fit, for an image without a text.
    """
    scores_TI = scores_IT.T if scores_TI is None else scores_TI
    _check(scores_IT, image_of_text_T)
    _check(scores_TI.T, image_of_text_T)
    return {"txt": _text_ranks(scores_IT, image_of_text_T), "img": _image_ranks(scores_TI, image_of_text_T)}


def recall_items(
    ranks: dict[str, torch.Tensor], image_ids_I: torch.Tensor, image_of_text_T: torch.Tensor, prefix: str
) -> dict[str, Items]:
    """{prefix}_txt_r{1,5,10} and {prefix}_img_r{1,5,10}, whose means are the recalls: 1 where the rank is at most k. A
    text's number is its image's id with its place among that image's texts behind it."""
    image_ids, owners = image_ids_I.cpu().numpy(), image_of_text_T.cpu().numpy()
    order = np.argsort(owners, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.searchsorted(owners[order], owners[order])
    texts = image_ids[owners] * MOST_TEXTS + place
    of = {"txt": (image_ids, image_ids), "img": (image_ids[owners], texts)}
    return {
        f"{prefix}_{way}_r{k}": Items((rank <= k).cpu().numpy().astype(np.float32), *of[way])
        for way, rank in ranks.items()
        for k in KS
    }


def candidates(scores_IT: torch.Tensor, k: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """The k best texts of each image and the k best images of each text: int64 [I, K], [T, K], best first.

    K is smaller than k where there are fewer. Which of several equal scores get in is left open (NUMERICS, Retrieval).
    """
    count_I, count_T = scores_IT.shape
    texts_IK = scores_IT.topk(min(k, count_T), dim=1).indices
    images_TK = scores_IT.topk(min(k, count_I), dim=0).indices.T
    return texts_IK, images_TK


def candidate_pairs(texts_IK: torch.Tensor, images_TK: torch.Tensor) -> torch.Tensor:
    """Every (image, text) that is a candidate either way round, once, sorted by image: int64 [P, 2]."""
    rows_I = torch.arange(len(texts_IK), device=texts_IK.device)[:, None].expand_as(texts_IK)
    rows_T = torch.arange(len(images_TK), device=images_TK.device)[:, None].expand_as(images_TK)
    pairs_P2 = torch.stack(
        [torch.cat([rows_I.flatten(), images_TK.flatten()]), torch.cat([texts_IK.flatten(), rows_T.flatten()])], dim=1
    )
    return pairs_P2.unique(dim=0)


def rerank(
    scores_IT: torch.Tensor,
    texts_IK: torch.Tensor,
    images_TK: torch.Tensor,
    pairs_P2: torch.Tensor,
    itm_P: torch.Tensor,
    mode: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores after re-ranking, image-to-text [I, T] and text-to-image [T, I]: the arguments of `ranks`.

    scores_IT: ITC's cosine, not divided by the temperature. itm_P: the ITM logit of "match" for each of
    `candidate_pairs`. mode "itc" keeps the cosine, "itm" takes the logit, "sum" adds the two (LAVIS; NUMERICS,
    Retrieval). What was not among the candidates of a row is -inf there, in all modes.
    """
    if mode not in ("itc", "itm", "sum"):
        raise ValueError(f"mode {mode!r} is none of itc, itm, sum")
    itm_IT = torch.full_like(scores_IT, float("-inf"))
    itm_IT[pairs_P2[:, 0], pairs_P2[:, 1]] = itm_P.to(scores_IT)
    mixed_IT = {"itc": scores_IT, "itm": itm_IT, "sum": itm_IT + scores_IT}[mode]
    return _keep(mixed_IT, texts_IK), _keep(mixed_IT.T, images_TK)


def _keep(scores_RC: torch.Tensor, chosen_RK: torch.Tensor) -> torch.Tensor:
    kept_RC = torch.full_like(scores_RC, float("-inf"))
    return kept_RC.scatter(1, chosen_RK, scores_RC.gather(1, chosen_RK))


def _text_ranks(scores_IT: torch.Tensor, image_of_text_T: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of the best own text of each image among the texts of other images."""
    own_T = scores_IT[image_of_text_T, torch.arange(len(image_of_text_T), device=scores_IT.device)]
    best_I = own_T.new_full((len(scores_IT),), float("-inf")).scatter_reduce(0, image_of_text_T, own_T, "amax")
    own_at_best_T = (own_T >= best_I[image_of_text_T]).long()
    own_at_best_I = torch.zeros_like(best_I, dtype=torch.long).scatter_add(0, image_of_text_T, own_at_best_T)
    return 1 + (scores_IT >= best_I[:, None]).sum(1, dtype=torch.int32) - own_at_best_I


def _image_ranks(scores_TI: torch.Tensor, image_of_text_T: torch.Tensor) -> torch.Tensor:
    """Rank, from 1, of the image of each text among all images."""
    return (scores_TI >= scores_TI.gather(1, image_of_text_T[:, None])).sum(1, dtype=torch.int32)


def _check(scores_IT: torch.Tensor, image_of_text_T: torch.Tensor) -> None:
    if torch.isnan(scores_IT).any():
        raise ValueError("a score is nan: no rank can be given")
    if scores_IT.ndim != 2 or image_of_text_T.shape != scores_IT.shape[1:]:
        raise ValueError(f"scores {tuple(scores_IT.shape)} do not fit {tuple(image_of_text_T.shape)} texts' images")
    if len(alone := set(range(len(scores_IT))) ^ set(image_of_text_T.tolist())):
        raise ValueError(f"{len(scores_IT)} images, but row {min(alone)} has no text or does not exist")
