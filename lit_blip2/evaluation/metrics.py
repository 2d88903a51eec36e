"""Metrics of pairs, answers and captions as torchmetrics.Metrics, usable in any loop (docs/metrics.md)."""

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
    """How often a caption scores higher with its image than with one whose attributes are swapped, 0..1; a tie counts
    half, so chance is 0.5. `compute` gives {"binding/itc_accuracy": scalar}.

    The states are the scores of all pairs, on their device: `update` waits for no GPU.

    Args:
        score: what scores the pairs, as it stands in the metric's name.

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
        """A batch of pairs: scores with the true and with the swapped image, float [B].

        image_ids, ids: int64 [B], the true image of each pair and a number of the pair's own, for intervals.
        Raises ValueError for unequal lengths; `compute` raises it for nan and for no pairs.
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
    """VQAv2's accuracy, 0..1: an answer scores min(1, annotators who gave it / 3), averaged over the ways to leave one
    annotator out. With one answer a question, as in GQA, it scores 1 where the two are equal once both are normalised.
    evaluation/vqa.py has the formulas and their sources. For OK-VQA pass predictions that evaluation/lemmas.py has
    lemmatised.

    `compute` gives {"vqa/accuracy": scalar}, and of questions with types also vqa/type_<name> and vqa/mean_over_types,
    the mean of those.

    Args:
        scoring: by whose rules: official, or lavis, which is more lenient.

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
        """A batch of questions: of each the prediction, its annotators' answers, its type, and for intervals its image
        and a number of its own.

        Raises ValueError for unequal lengths, a question without answers, or answers that are no list.
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

    `compute` gives vqa/accuracy, and vqa/yes_{precision,recall,f1,share}, all 0..1; share is how often yes is said, and
    what divides by nothing is 0. Of questions that name how their objects were sampled it gives the same by sampling,
    pope/<sampling>_accuracy and pope/<sampling>_yes_*, and pope/accuracy of all of them.

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
        """A batch of questions: of each the prediction as it was said, no where its first sentence has a no or a not,
        else yes; the truth, "yes" or "no"; the sampling, such as "random", or ""; its image and a number of its own.

        Raises ValueError for unequal lengths; `compute` raises it for another truth.
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
    """BLEU-4, ROUGE-L and CIDEr of one caption per image against its references, by pycocoevalcap's scorers: caption/
    {bleu4,rouge_l,cider}, 0..1 but for CIDEr, 0..10. On request METEOR and SPICE, which need Java.

    CIDEr weighs words by how rare they are among all references given, so it belongs to a set of images, and is 0 for
    a single one. evaluation/captioning.py says more.

    Of several ranks the first scores the captions of all, and tells the others.

    Args:
        tokenizer: "spaces" lower-cases and splits at spaces; "ptb" is the tokenizer of published metrics, needs Java.
        meteor: caption/meteor too. spice: caption/spice too.

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
        """A batch of images: of each its caption, its references, its id, and as NoCaps has it, its domain, which then
        has a CIDEr of its own, caption/cider_{in,near,out}.

        Raises ValueError for unequal lengths, an image without a reference, or references that are no list.
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
    """Raises ValueError where an item has no text, or a text in the place of a list of them."""
    if wrong := [place for place, texts in enumerate(given) if isinstance(texts, str)]:
        text = given[wrong[0]]
        raise ValueError(f"{name}[{wrong[0]}] is {text!r}, where a list of texts is needed: [{text!r}]")
    if empty := [place for place, texts in enumerate(given) if not texts]:
        raise ValueError(f"{name}[{empty[0]}] is empty: each needs at least one text")
