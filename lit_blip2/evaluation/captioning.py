"""BLEU-4 and CIDEr, by pycocoevalcap's scorers without its Java tokenizer."""

import numpy as np

from lit_blip2.evaluation.items import Items


def caption_scores(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """{"caption/bleu4", "caption/cider"} of one caption per image against its references.

    Texts are lower-cased and split at spaces, nothing else: pass captions without punctuation, or with its marks as
    words of their own, on both sides alike. Figures then compare with each other; published ones were made with the
    Penn Treebank tokenizer. CIDEr weighs words by how rare they are among the references given, so it belongs to a
    set of images: it is 0 for a single one.

    Raises ValueError for no captions, unequal numbers, an image without references.
    """
    given, wanted = _checked(predictions, references)
    return {"caption/bleu4": _bleu4(given, wanted), "caption/cider": float(_ciders(given, wanted).mean())}


def caption_items(
    predictions: list[str], references: list[list[str]], image_ids: list[int]
) -> tuple[dict[str, float], dict[str, Items]]:
    """`caption_scores`, and the items of those that are means over images: BLEU counts over all of them at once.

    An image's CIDEr rests on the others' references: a bootstrap over images keeps those as they are.
    """
    given, wanted = _checked(predictions, references)
    ids, ciders = np.array(image_ids), _ciders(given, wanted)
    scores = {"caption/bleu4": _bleu4(given, wanted), "caption/cider": float(ciders.mean())}
    return scores, {"caption/cider": Items(ciders, ids, ids)}


Texts = dict[int, list[str]]


def _checked(predictions: list[str], references: list[list[str]]) -> tuple[Texts, Texts]:
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions for {len(references)} lists of references")
    if empty := [i for i, texts in enumerate(references) if not texts]:
        raise ValueError(f"image {empty[0]} of {len(references)} has no reference caption")
    given = {i: [_words(text)] for i, text in enumerate(predictions)}
    return given, {i: [_words(text) for text in texts] for i, texts in enumerate(references)}


def _bleu4(given: Texts, wanted: Texts) -> float:
    from pycocoevalcap.bleu.bleu import Bleu

    return float(Bleu(4).compute_score(wanted, given, verbose=0)[0][3])


def _ciders(given: Texts, wanted: Texts) -> np.ndarray:
    """CIDEr of each image, float [N]; their mean is the set's."""
    from pycocoevalcap.cider.cider import Cider

    return np.asarray(Cider().compute_score(wanted, given)[1])


def _words(text: str) -> str:
    return " ".join(text.lower().split())
