"""Metrics as functions of sums, so that a bootstrap can also handle metrics that are not means.

A metric of a test set is a function of the sums of S statistics over its examples. A bootstrap draw changes only the
sums. Every function takes float [..., S] and returns float [...].
"""

import numpy as np

ORDERS = 4  # of BLEU's n-grams
# METEOR 1.5 for English, tuned to rank systems: alpha, beta, gamma, delta, and the weights of exact, stem, synonym and
# paraphrase matches.
_RECALL, _CURVE, _MOST_PENALTY, _CONTENT = 0.85, 0.2, 0.6, 0.75
_MATCHES = np.array([1, 0.6, 0.8, 0.6])


def ratio(sums: np.ndarray) -> np.ndarray:
    """Numerator over denominator (S = 2), for means, precision, recall and F1; 0 if the denominator is 0."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below != 0)


def bleu4(sums: np.ndarray) -> np.ndarray:
    """BLEU-4 of a corpus. S = 10: the matched n-grams of a prediction for n = 1 to 4, all its n-grams for n = 1 to 4,
    its length, and the length of the closest reference. Small constants avoid zeros, as in pycocoevalcap."""
    found, given = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS]
    length, wanted = sums[..., -2], sums[..., -1]
    precision = ((found + 1e-15) / (given + 1e-9)).prod(-1) ** (1 / ORDERS)
    share = (length + 1e-15) / (wanted + 1e-9)
    return precision * np.exp(np.minimum(0, 1 - 1 / share))


def meteor(sums: np.ndarray) -> np.ndarray:
    """METEOR of a corpus, from the S = 23 statistics that METEOR's program prints for each example.

    In order, each for prediction and reference: words; function words; then for exact, stem, synonym and paraphrase
    matches the matched content words and the matched function words; then the number of chunks (0 if prediction and
    reference are equal); and matched words.
    """
    words, function_words, chunks, matched = sums[..., 0:2], sums[..., 2:4], sums[..., 20], sums[..., 21:23]
    kinds = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # of kind, content or function, side
    content, function = np.moveaxis(np.einsum("k,...kcs->...cs", _MATCHES, kinds), -2, 0)
    found = _CONTENT * content + (1 - _CONTENT) * function
    given = _CONTENT * (words - function_words) + (1 - _CONTENT) * function_words
    precision, recall = np.moveaxis(ratio(np.stack([found, given], -1)), -1, 0)
    mean = ratio(np.stack([precision * recall, _RECALL * precision + (1 - _RECALL) * recall], -1))
    broken = ratio(np.stack([chunks, matched.mean(-1)], -1))
    return mean * (1 - _MOST_PENALTY * broken**_CURVE)


FORMULAS = {"ratio": ratio, "bleu4": bleu4, "meteor": meteor}
STATISTICS = {"ratio": 2, "bleu4": 10, "meteor": 23}  # S of each
