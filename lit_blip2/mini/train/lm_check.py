"""How well a language model answers questions about scenes that it has only read descriptions of."""

from collections.abc import Callable, Sequence

from lit_blip2.mini.grammar import QUESTION_TYPES, caption_text, draw_questions
from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.train.documents import prompt

Item = tuple[str, str, str, str]


def check_items(seed: int, pairs: int) -> list[Item]:
    """(description, question, answer, type) of unseen scenes; only what the description answers is asked."""
    items = []
    for k in range(pairs):
        pair, rng = described_pair(seed, "text_check", k, captions_per_image=1)
        for told in pair:
            caption = told.captions[0]
            text = caption_text(caption)
            items += [(text, q.text, q.answer, q.type) for q in draw_questions(told.scene, rng, caption)]
    return items


def text_qa(answer: Callable[[list[str]], list[str]], items: Sequence[Item], form: str) -> dict[str, float]:
    """Exact-match accuracy per question type and its mean. `form` holds {description} and {prompt} or {question}."""
    answers = answer([form.format(description=d, prompt=prompt(q), question=q) for d, q, _, _ in items])
    right = [given == wanted for given, (_, _, wanted, _) in zip(answers, items, strict=True)]
    per_type = {}
    for kind in QUESTION_TYPES:
        of_kind = [ok for ok, item in zip(right, items, strict=True) if item[3] == kind]
        per_type[kind] = round(sum(of_kind) / len(of_kind), 4)
    return {"mean": round(sum(per_type.values()) / len(per_type), 4), **per_type}


def count_per_type(items: Sequence[Item]) -> dict[str, int]:
    """How many of the items ask each type of question."""
    return {kind: sum(item[3] == kind for item in items) for kind in QUESTION_TYPES}
