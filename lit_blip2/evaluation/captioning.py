"""BLEU-4, ROUGE-L and CIDEr, and on request METEOR and SPICE, for each image, by pycocoevalcap's scorers."""

from collections.abc import Sequence

import numpy as np

from lit_blip2.evaluation.formulas import ORDERS
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.java import meteor_statistics, ptb_words, spice_scores

TOKENIZERS = ("spaces", "ptb")


def caption_items(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    image_ids: Sequence[int],
    domains: Sequence[str] | None = None,
    tokenizer: str = "spaces",
    meteor: bool = False,
    spice: bool = False,
) -> dict[str, Items]:
    """Per-image values of caption/{bleu4,rouge_l,cider,meteor,spice}, of one caption per image against its references.

    tokenizer: "spaces" lower-cases and splits at spaces alone. Pass captions and references without punctuation, or
    with punctuation marks as separate words. "ptb" is the Penn Treebank tokenizer of published metrics: pass texts as
    written. "ptb", METEOR and SPICE need Java.

    CIDEr weighs words by how rare they are among the references of all images, so it depends on the set of images, and
    is 0 for a single one. A bootstrap over images keeps these word weights. domains: NoCaps' domain of each image;
    each domain is a set of its own, caption/cider_{in,near,out}. BLEU and METEOR are computed over all images at once,
    the others are means over images. An empty caption scores 0.

    Raises ValueError for no captions, unequal numbers, an image without references, and an unknown tokenizer.
    """
    _check(predictions, references, tokenizer)
    given, wanted = _tokenised(predictions, references, tokenizer)
    ids, ciders = np.array(image_ids), _ciders(given, wanted)
    found = {
        "bleu4": Items(_bleu_statistics(given, wanted), ids, ids, figure="bleu4"),
        "rouge_l": Items(_rouges(given, wanted), ids, ids),
        "cider": Items(ciders, ids, ids),
    }
    for domain in sorted(set(domains or ())):
        rows = np.flatnonzero(np.array(domains) == domain)
        ciders = _ciders([given[row] for row in rows], [wanted[row] for row in rows])
        found[f"cider_{domain.removesuffix('-domain')}"] = Items(ciders, ids[rows], ids[rows])
    if meteor:
        found["meteor"] = Items(meteor_statistics(given, wanted), ids, ids, figure="meteor")
    if spice:
        found["spice"] = Items(spice_scores(given, wanted), ids, ids)
    return {f"caption/{name}": items for name, items in found.items()}


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str) -> None:
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions for {len(references)} lists of references")
    if empty := [i for i, texts in enumerate(references) if not texts]:
        raise ValueError(f"image {empty[0]} of {len(references)} has no reference caption")
    if tokenizer not in TOKENIZERS:
        raise ValueError(f"tokenizer {tokenizer!r} is none of {', '.join(TOKENIZERS)}")


def _tokenised(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> tuple[list[str], list[list[str]]]:
    """Captions and references as words separated by single spaces."""
    texts = [*predictions, *(text for texts in references for text in texts)]
    words = iter(ptb_words(texts) if tokenizer == "ptb" else [" ".join(text.lower().split()) for text in texts])
    return [next(words) for _ in predictions], [[next(words) for _ in texts] for texts in references]


def _bleu_statistics(given: list[str], wanted: list[list[str]]) -> np.ndarray:
    """The statistics of each image that `formulas.bleu4` needs, float [N, 10]."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    rows = []
    for text, texts in zip(given, wanted):
        counts = BleuScorer(text, texts, n=ORDERS).ctest[0]
        length = counts["testlen"]
        closest = min(counts["reflen"], key=lambda reference: (abs(reference - length), reference))
        rows.append([*counts["correct"], *counts["guess"], length, closest])
    return np.array(rows, dtype=float)


def _rouges(given: list[str], wanted: list[list[str]]) -> np.ndarray:
    """ROUGE-L of each image, float [N]."""
    from pycocoevalcap.rouge.rouge import Rouge

    return np.array([Rouge().calc_score([text], texts) for text, texts in zip(given, wanted)])


def _ciders(given: list[str], wanted: list[list[str]]) -> np.ndarray:
    """CIDEr of each image, float [N]; their mean is the CIDEr of the set."""
    from pycocoevalcap.cider.cider import Cider

    texts = {row: [text] for row, text in enumerate(given)}
    return np.asarray(Cider().compute_score(dict(enumerate(wanted)), texts)[1])
