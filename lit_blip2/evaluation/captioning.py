"""BLEU-4 and CIDEr, by pycocoevalcap's scorers without its Java tokenizer."""


def caption_scores(predictions: list[str], references: list[list[str]]) -> dict[str, float]:
    """{"caption/bleu4", "caption/cider"} of one caption per image against its references.

    Texts are lower-cased and split at spaces, nothing else: pass captions without punctuation, or with its marks as
    words of their own, on both sides alike. Figures then compare with each other; published ones were made with the
    Penn Treebank tokenizer. CIDEr weighs words by how rare they are among the references given, so it belongs to a
    set of images: it is 0 for a single one.

    Raises ValueError for no captions, unequal numbers, an image without references.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} captions for {len(references)} lists of references")
    if empty := [i for i, texts in enumerate(references) if not texts]:
        raise ValueError(f"image {empty[0]} of {len(references)} has no reference caption")
    given = {i: [_words(text)] for i, text in enumerate(predictions)}
    wanted = {i: [_words(text) for text in texts] for i, texts in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    cider, _ = Cider().compute_score(wanted, given)
    return {"caption/bleu4": float(bleu[3]), "caption/cider": float(cider)}


def _words(text: str) -> str:
    return " ".join(text.lower().split())
