"""What is written beside a sample image: what the objectives prefer, or what the language model says.

Legend: B images, each with one text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_blip2.evaluation.retrieval import similarity
from lit_blip2.evaluation.vqa import vqa_scores
from lit_blip2.objectives.stage1 import Stage1


class Line(NamedTuple):
    """A line of text, and whether it is right, wrong (False) or neither (None)."""

    text: str
    right: bool | None = None


def stage1_lines(net: Stage1, features_BND: Tensor, captions: Sequence[str]) -> list[list[Line]]:
    """For each image: its caption, ITC's cosine and ITM's probability, and the caption of the B that they prefer."""
    lines = [[Line(caption)] for caption in captions]
    for name, scores_BB in sample_scores(net, features_BND, captions).items():
        for own, (row, score_B) in enumerate(zip(lines, scores_BB.tolist(), strict=True)):
            best = max(range(len(captions)), key=score_B.__getitem__)
            right = captions[best] == captions[own]
            other = "" if right else f", prefers ({score_B[best]:.2f}): {captions[best]}"
            row.append(Line(f"{name} {'✓' if right else '✗'} {score_B[own]:.2f}{other}", right))
    return lines


@torch.no_grad()
def sample_scores(net: Stage1, features_BND: Tensor, captions: Sequence[str]) -> dict[str, Tensor]:
    """{"ITC": cosines, "ITM": match probabilities}, float [B images, B texts] on the CPU, for the heads present."""
    text = net.tokenizer(captions).to(features_BND.device)
    image_BQP, image = net.encode_images(features_BND)
    scores = {}
    if net.itc is not None:
        scores["ITC"] = similarity(image_BQP, net.encode_texts(text)).float().cpu()
    if net.itm is not None:
        places = torch.arange(len(captions), device=features_BND.device)
        image_rows, text_rows = places.repeat_interleave(len(captions)), places.repeat(len(captions))
        logits = net.match_logits(image.select(image_rows), text.select(text_rows))
        scores["ITM"] = logits.float().softmax(-1)[:, 1].view(len(captions), -1).cpu()
    return scores


def stage2_lines(
    predictions: Iterable[Mapping[str, Any]],
    image_ids: Sequence[int],
    references: Sequence[str],
    image_of: Mapping[int, int],
    questions: int,
) -> list[list[Line]]:
    """Lines for each image: its reference, the generated caption, and its first `questions` questions with answers.

    predictions: Generation's. references: "" for none. image_of: question id -> image id. What was not predicted is
    left out.
    """
    given = zip(image_ids, references, strict=True)
    lines = {image_id: [Line(f"reference: {text or 'none'}")] for image_id, text in given}
    asked = dict.fromkeys(lines, 0)
    for each in predictions:
        if each["task"] == "caption" and each["image_id"] in lines:
            lines[each["image_id"]].insert(1, Line(f"caption: {each['caption']}"))
        elif each["task"] == "vqa" and asked.get(image_of[each["question_id"]], questions) < questions:
            asked[image_of[each["question_id"]]] += 1
            lines[image_of[each["question_id"]]].append(_answered(each))
    return list(lines.values())


def _answered(prediction: Mapping[str, Any]) -> Line:
    answers = prediction["answers"]
    if not answers:  # an evaluation server has them
        return Line(f"{prediction['question']} → {prediction['answer']}")
    right = vqa_scores([prediction["answer"]], [answers])[0] > 0
    truth = "" if right else f" (true: {max(answers, key=answers.count)})"
    return Line(f"{prediction['question']} → {prediction['answer']}{truth}", right)
