"""Metrics of binding pairs, answers and captions as torchmetrics.Metrics, for any training loop (docs/metrics.md)."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from torch import Tensor

from lit_blip2.distributed import gather_lists, rank
from lit_blip2.evaluation.binding import binding_items
from lit_blip2.evaluation.captioning import TOKENIZERS, caption_items
from lit_blip2.evaluation.item_metric import ItemMetric, RowMetric, all_or_none, ids_of, same_lengths
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.java import check_java
from lit_blip2.evaluation.pope import TYPE, pope_items, sampled_items, yes_or_no
from lit_blip2.evaluation.vqa import Scoring, type_metric, vqa_scores


class BindingAccuracy(ItemMetric):
    """Share of captions that score higher with their own image than with an image whose attributes are swapped.

    The value lies in 0..1. A tie counts one half, so chance is 0.5. `compute` returns {"binding/itc_accuracy": float32
    scalar}. The states are the scores of all pairs, on their device; `update` does not synchronise with the GPU.

    Args:
        score: name of the scoring function, such as itc, used in the metric's name.
        kwargs: arguments of torchmetrics.Metric.

    Example:
        >>> metric = BindingAccuracy()
        >>> metric.update(torch.tensor([0.9, 0.4]), torch.tensor([0.1, 0.6]))
        >>> metric.compute()
        {'binding/itc_accuracy': tensor(0.5000)}
    """

    def __init__(self, score: str = "itc", **kwargs: Any):
        super().__init__(**kwargs)
        self.score = score
        for state in ("true", "swapped", "image_ids", "ids"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self, true_B: Tensor, swapped_B: Tensor, image_ids_B: Tensor | None = None, ids_B: Tensor | None = None
    ) -> None:
        """Add a batch of pairs. Raises ValueError for unequal lengths; `compute` raises it for NaN and without pairs.

        Args:
            true_B: scores of the captions with their own image, float [B].
            swapped_B: scores with the swapped image, float [B].
            image_ids_B: id of each pair's own image, int64 [B], for confidence intervals.
            ids_B: id of each pair, int64 [B], for confidence intervals.
        """
        given = {"true": true_B, "swapped": swapped_B, "image_ids": image_ids_B, "ids": ids_B}
        same_lengths(given)
        for state, each_B in given.items():
            if each_B is not None:
                getattr(self, state).append(each_B)

    def scored(self) -> dict[str, Items]:
        if (true_P := self.joined("true")) is None:
            raise ValueError("there are no pairs to score: call update before compute")
        images, ids = (self.numbers(state, len(true_P)) for state in ("image_ids", "ids"))
        swapped_P = self.joined("swapped")
        return {f"binding/{self.score}_accuracy": binding_items(true_P.cpu(), swapped_P.cpu(), images, ids)}


class VQAAccuracy(RowMetric):
    """VQAv2's accuracy, 0..1 (formulas and sources: evaluation/vqa.py).

    An answer scores min(1, number of annotators who gave it / 3), averaged over all ways to leave one annotator out.
    If a question has one reference answer, as in GQA, the prediction scores 1 if both are equal after normalisation;
    "lavis" normalises the prediction alone.
    For OK-VQA, pass predictions that were lemmatised by evaluation/lemmas.py.

    `compute` returns {"vqa/accuracy": float32 scalar}. If questions have types, it adds vqa/type_<name> for each type,
    and their mean vqa/mean_over_types.

    Args:
        scoring: rules of normalisation and scoring: "official", or "lavis", which is more lenient.
        kwargs: arguments of torchmetrics.Metric.
    Raises:
        ValueError: unknown scoring.

    Example:
        >>> metric = VQAAccuracy()
        >>> metric.update(["two"], [["2"] * 9 + ["3"]])
        >>> metric.compute()
        {'vqa/accuracy': tensor(1.)}
    """

    def __init__(self, scoring: Scoring = "official", **kwargs: Any):
        if scoring not in get_args(Scoring):
            raise ValueError(f"scoring={scoring!r} is none of {', '.join(get_args(Scoring))}")
        super().__init__(**kwargs)
        self.scoring = scoring

    def update(
        self,
        predictions: Sequence[str],
        answers: Sequence[Sequence[str]],
        types: Sequence[str] | None = None,
        image_ids: Sequence[int] | None = None,
        ids: Sequence[int] | None = None,
    ) -> None:
        """Add a batch of questions.

        Args:
            predictions: predicted answers.
            answers: the list of reference answers of each question.
            types: type of each question.
            image_ids: id of each question's image, for confidence intervals.
            ids: id of each question, for confidence intervals.
        Raises:
            ValueError: unequal lengths, a question without answers, or a text in place of a list of answers.
        """
        given = {"predictions": predictions, "answers": answers, "types": types, "image_ids": image_ids, "ids": ids}
        predictions, answers, *about = same_lengths(given)
        check_lists("answers", answers)
        self.add(zip(vqa_scores(predictions, answers, self.scoring), *about))

    def scored(self) -> dict[str, Items]:
        scores, types, images, ids = self.columns("questions")
        scores, images, ids = np.array(scores), ids_of("image_ids", images), ids_of("ids", ids)
        items = {"vqa/accuracy": Items(scores, images, ids)}
        if all_or_none("types", types):
            types = np.array(types)
            items["vqa/mean_over_types"] = Items(scores, images, ids, types)
            for name in sorted(set(types.tolist())):
                items[type_metric(name)] = Items(*(each[types == name] for each in (scores, images, ids)))
        return items


class POPE(RowMetric):
    """POPE (arXiv 2305.10355): does a model say yes to objects that an image does not show?

    `compute` returns vqa/accuracy and vqa/yes_{precision,recall,f1,share}, float32 scalars in 0..1. share is how often
    the model says yes; a ratio with denominator 0 is 0. If questions name how their objects were sampled, it adds the
    same metrics for each sampling, pope/<sampling>_accuracy and pope/<sampling>_yes_*, and pope/accuracy over all of
    these questions.

    Example:
        >>> metric = POPE()
        >>> metric.update(["Yes, it is.", "There is no dog."], ["yes", "yes"])
        >>> metric.compute()["vqa/yes_recall"]
        tensor(0.5000)
    """

    def update(
        self,
        predictions: Sequence[str],
        truths: Sequence[str],
        samplings: Sequence[str] | None = None,
        image_ids: Sequence[int] | None = None,
        ids: Sequence[int] | None = None,
    ) -> None:
        """Add a batch of questions. Raises ValueError for unequal lengths; `compute` raises it for other truths.

        Args:
            predictions: generated answers. An answer counts as no if its first sentence holds "no" or "not", else yes.
            truths: "yes" or "no".
            samplings: how the question's object was sampled, such as "random", or "".
            image_ids: id of each question's image, for confidence intervals.
            ids: id of each question, for confidence intervals.
        """
        given = {"predictions": predictions, "truths": truths, "samplings": samplings}
        predictions, truths, *about = same_lengths(given | {"image_ids": image_ids, "ids": ids})
        self.add(zip(map(yes_or_no, predictions), truths, *about))

    def scored(self) -> dict[str, Items]:
        said, truths, samplings, images, ids = self.columns("questions")
        images, ids = ids_of("image_ids", images), ids_of("ids", ids)
        types = [f"{TYPE} {name or ''}".strip() for name in samplings]
        right = (np.array(said) == np.array(truths)).astype(float)
        whole = {"vqa/accuracy": Items(right, images, ids)} | pope_items(said, truths, images, ids)
        return whole | sampled_items(said, truths, types, images, ids)


class CaptionScores(RowMetric):
    """BLEU-4, ROUGE-L and CIDEr of one caption per image against its references, by pycocoevalcap (see captioning.py).

    `compute` returns caption/bleu4 and caption/rouge_l (0..1) and caption/cider (0..10), float32 scalars; on request
    also caption/meteor and caption/spice. CIDEr weighs words by how rare they are among all references, so its value
    depends on the set of images, and is 0 for a single image. With several ranks, the first one scores all captions
    and sends the values to the others.

    Args:
        tokenizer: "spaces" lower-cases and splits at spaces; "ptb" is the tokenizer of published metrics, needs Java.
        meteor: also compute METEOR; needs Java.
        spice: also compute SPICE; needs Java.
        kwargs: arguments of torchmetrics.Metric.
    Raises:
        ValueError: unknown tokenizer.

    Example:
        >>> metric = CaptionScores()
        >>> metric.update(["a red ring", "a dog"], [["a red ring"], ["the dog", "a brown dog"]])
        >>> metric.compute()["caption/rouge_l"]
        tensor(0.8861)
    """

    def __init__(self, tokenizer: str = "spaces", meteor: bool = False, spice: bool = False, **kwargs: Any):
        if tokenizer not in TOKENIZERS:
            raise ValueError(f"tokenizer={tokenizer!r} is none of {', '.join(TOKENIZERS)}")
        if tokenizer == "ptb" or meteor or spice:
            check_java(spice=spice)
        super().__init__(**kwargs)
        self.scoring = dict(tokenizer=tokenizer, meteor=meteor, spice=spice)

    def update(
        self,
        captions: Sequence[str],
        references: Sequence[Sequence[str]],
        image_ids: Sequence[int] | None = None,
        domains: Sequence[str] | None = None,
    ) -> None:
        """Add a batch of images.

        Args:
            captions: the caption of each image.
            references: the list of reference captions of each image.
            image_ids: id of each image, for confidence intervals.
            domains: NoCaps' domain of each image; `compute` then adds caption/cider_{in,near,out}.
        Raises:
            ValueError: unequal lengths, an image without references, or a text in place of a list of references.
        """
        given = {"captions": captions, "references": references, "image_ids": image_ids, "domains": domains}
        captions, references, *about = same_lengths(given)
        check_lists("references", references)
        self.add(zip(captions, references, *about))

    def scored(self) -> dict[str, Items]:
        together = self._is_synced  # the rows of all ranks are here
        captions, references, image_ids, domains = self.columns("captions")
        ids, domains = ids_of("image_ids", image_ids), None if None in domains else domains
        own = [] if together and rank() else [caption_items(captions, references, ids, domains, **self.scoring)]
        return gather_lists(own)[0] if together else own[0]


def check_lists(name: str, given: Sequence[Any]) -> None:
    """Raises ValueError if an entry of `given` is a text instead of a list of texts, or an empty list."""
    if wrong := [place for place, texts in enumerate(given) if isinstance(texts, str)]:
        text = given[wrong[0]]
        raise ValueError(f"{name}[{wrong[0]}] is {text!r}, where a list of texts is needed: [{text!r}]")
    if empty := [place for place, texts in enumerate(given) if not texts]:
        raise ValueError(f"{name}[{empty[0]}] is empty: each needs at least one text")
