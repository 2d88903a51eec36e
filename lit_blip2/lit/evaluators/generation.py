"""Generation, the evaluator of stage 2: it prepares targets, and in evaluation generates captions and answers."""

import json
from typing import Any, Literal

import torch
from torch import Tensor

from lit_blip2.distributed import gather_lists, rank
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.java import check_java
from lit_blip2.evaluation.lemmas import spacy_model
from lit_blip2.evaluation.predictions import score, submit
from lit_blip2.evaluation.vqa import Scoring
from lit_blip2.keyed import row_uniforms
from lit_blip2.lit.evaluators.evaluation import Evaluation, Losses, image_features, names_of
from lit_blip2.lit.evaluators.unfinished import Unfinished, key_of
from lit_blip2.model.language import Example
from lit_blip2.model.plain import naming
from lit_blip2.objectives.stage2 import Stage2
from lit_blip2.whole_files import write_text

PLAIN = dict(tokenizer="spaces", meteor=False, spice=False)  # how validation scores captions


class Generation:
    """Evaluator of the language model: turns batches into losses, captions, answers and metrics.

    predictions: the captions and answers so far of this rank; after `gather`, of all ranks. items: metric name -> the
    per-example values behind the metric, for confidence intervals.

    Args:
        net: image encoder, bridge and language model.
        question: prompt for a question; {} stands for the question. Training on questions uses it too.
        vqa_max_new_tokens: longest answer, in tokens.
        vqa_num_beams: number of beams that generate an answer; 1: greedy decoding.
        vqa_length_penalty: exponent of the length in beam search, as in transformers, for answers. The default is the
            paper's: -1 favours short answers.
        caption_max_new_tokens: longest caption, in tokens.
        caption_num_beams: number of beams that generate a caption; 1: greedy decoding.
        caption_length_penalty: exponent of the length in beam search, for captions; 1 neither favours short captions
            nor long ones.
        preset: a name for these settings, such as the paper's table that they reproduce. `test` writes it to
            decoding.json beside its metrics; empty: no name.
        no_image: in `test`, also answer every question without its image (metric vqa/no_image).
        in_context: number of solved examples in front of every question, in `test` and `predict`; 0: zero-shot. An
            example has the form of the question: the soft prompt of its image, its question, its answer. The examples
            are validation questions about other images (test questions if the data have no validation questions),
            drawn by (data.seed, question id). vqa/no_image leaves their images out too.
        caption_tokenizer: how `test` splits captions into words before scoring. "spaces": at spaces. "ptb": by the
            Penn Treebank tokenizer, as published metrics do; it needs Java.
        meteor: also score captions by METEOR in `test`; needs Java.
        spice: also score captions by SPICE in `test`; needs Java 8 or 11 and SPICE's models.
        lemmatise: reduce answers to lemmas before they are scored, as for OK-VQA.
        scoring: rules that score the answers. "official": the evaluation code of VQAv2. "lavis": LAVIS' copy of it,
            which is more lenient and gave the paper's numbers.
    """

    tasks = ("caption", "vqa")

    def __init__(
        self,
        net: Stage2,
        question: str = "Question: {} Answer:",
        vqa_max_new_tokens: int = 10,
        vqa_num_beams: int = 5,
        vqa_length_penalty: float = -1.0,
        caption_max_new_tokens: int = 30,
        caption_num_beams: int = 5,
        caption_length_penalty: float = 1.0,
        preset: str = "",
        no_image: bool = True,
        in_context: int = 0,
        caption_tokenizer: Literal["spaces", "ptb"] = "spaces",
        meteor: bool = False,
        spice: bool = False,
        lemmatise: bool = False,
        scoring: Scoring = "official",
    ):
        if in_context < 0:
            raise ValueError(f"in_context={in_context} must not be negative")
        lengths = dict(vqa_max_new_tokens=vqa_max_new_tokens, caption_max_new_tokens=caption_max_new_tokens)
        counts = lengths | dict(vqa_num_beams=vqa_num_beams, caption_num_beams=caption_num_beams)
        if small := [f"model.{name}={value}" for name, value in counts.items() if value < 1]:
            raise ValueError(f"{', '.join(small)}: each must be at least 1; 1 beam takes the likeliest token each time")
        if question.count("{}") != 1:
            raise ValueError(f"question={question!r} must have one {{}}, the place of the question")
        self.net, self.question, self.no_image = net, question, no_image
        self.in_context, self.examples = in_context, None
        self.answering = dict(
            max_new_tokens=vqa_max_new_tokens, num_beams=vqa_num_beams, length_penalty=vqa_length_penalty
        )
        self.captioning = dict(
            max_new_tokens=caption_max_new_tokens, num_beams=caption_num_beams, length_penalty=caption_length_penalty
        )
        self.preset = preset
        self.caption_scoring, self.scored_by = dict(tokenizer=caption_tokenizer, meteor=meteor, spice=spice), PLAIN
        self.lemmatise, self.scoring = lemmatise, scoring
        self.predictions: list[dict[str, Any]] = []
        self.gathered = False
        self.unfinished: Unfinished | None = None
        self.evaluation = Evaluation("validate")
        self.items: dict[str, Items] = {}

    def prepare(self, batch: dict[str, Any]) -> None:
        """Tokenise, draw random numbers and find examples."""
        if batch["task"] == "train":
            uniform_B = row_uniforms(batch["seed"], batch["step"], batch["row"], 1)[:, 0]
            asked = "question" in batch
            prompts = self.prompts_of(batch) if asked else [self.net.prompt] * len(batch["caption"])
            self._add_target(batch, batch["answer" if asked else "caption"], prompts, uniform_B)
            batch["queries"] = self.net.draw(batch["seed"], batch["step"])
        elif batch["task"] == "caption":
            prompts = [self.net.prompt] * len(batch["captions"])
            if all(batch["captions"]):
                captions = [texts[0] for texts in batch["captions"]]
                self._add_target(batch, captions, prompts, row_uniforms(0, 0, batch["row"], 1)[:, 0])
            else:
                batch["prompts"] = self.net.read(prompts)
        elif batch["task"] == "vqa":
            solved, ids = [], (batch["question_id"], batch["image_id"].tolist())
            if self.examples is not None:
                solved = self.examples.batches(*ids)
            batch["examples"] = solved
            for each in (batch, *solved):
                with naming(names_of(each)):
                    each["prompts"] = self.net.read(self.prompts_of(each))

    def _add_target(self, batch: dict[str, Any], targets: list[str], prompts: list[str], uniform_B: Tensor) -> None:
        batch["prompts"] = self.net.read(prompts)
        batch["target"] = self.net.objective.text(self.net.language, targets, prompts, uniform_B)

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """See LitBLIP2.metric_names."""
        names = {"loss/lm", "caption/cider", "caption/bleu4", "caption/rouge_l"} if "caption" in tasks else set()
        if "caption" in tasks and command == "test":
            names |= {
                "caption/cider_*",
                *(f"caption/{name}" for name in ("meteor", "spice") if self.caption_scoring[name]),
            }
        if "vqa" in tasks:
            names |= {"vqa/accuracy", "vqa/mean_over_types", "vqa/type_*", "vqa/yes_*", "pope/*"}
            names |= {"vqa/no_image"} if self.no_image and command == "test" else set()
        return names

    def begin(self, evaluation: Evaluation) -> None:
        """Start an evaluation."""
        self.evaluation, self.examples = evaluation, evaluation.examples
        self.predictions, self.gathered = [], False
        self.scored_by = self.caption_scoring if evaluation.tests else PLAIN
        if self.scored_by != PLAIN:
            check_java(spice=self.caption_scoring["spice"])
        if self.lemmatise and self.scoring == "lavis":
            spacy_model()
        self.unfinished = None
        if evaluation.keeps_predictions:
            made_of = [*evaluation.made_of, json.dumps([self.rules(), self.no_image])]
            self.unfinished = Unfinished(evaluation.folder, evaluation.command, rank(), made_of)

    def step(self, batch: dict[str, Any]) -> Losses | None:
        """Generate the predictions of a batch, or take those of an interrupted evaluation. Returns the language model's
        loss if the batch has captions to score it on, else None."""
        captions = batch["task"] == "caption"
        ids = batch["image_id"].tolist() if captions else batch["question_id"]
        made = self.unfinished and self.unfinished.take((batch["task"], number) for number in ids)
        if made is None:
            made = self._caption(batch) if captions else self._answer(batch)
            if self.unfinished:
                self.unfinished.add(made)
        self.predictions += made
        if not any("nats" in each for each in made):
            return None
        tokens = sum(each["tokens"] for each in made)
        loss = torch.tensor(sum(each["nats"] for each in made) / tokens, device=batch["image_id"].device)
        return Losses({"lm": loss}, self.net.objective.weight * loss, tokens)

    def _caption(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        soft_prompt = self.net.soft_prompts(image_features(self.net.vision, batch), batch["prompts"])
        texts = self.net.language.generate(soft_prompt, [self.net.prompt] * len(soft_prompt), **self.captioning)
        references = batch["written" if self.scored_by["tokenizer"] == "ptb" else "captions"]
        own = [
            {"task": "caption", "image_id": image_id, "caption": text, "references": theirs}
            for image_id, text, theirs in zip(batch["image_id"].tolist(), texts, references)
        ]
        _add(own, batch, "domain", "written_id")
        if "target" in batch and self.evaluation.command != "predict":
            losses_L, row_L = self.net.language.loss(soft_prompt, batch["target"])
            nats_B = losses_L.new_zeros(len(own)).index_add(0, row_L, losses_L).tolist()
            tokens_B = torch.bincount(row_L, minlength=len(own)).tolist()
            for row, nats, tokens in zip(own, nats_B, tokens_B):
                row |= {"nats": nats, "tokens": tokens}
        return own

    def _answer(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        prompts, examples = self.prompts_of(batch), batch["examples"]
        solved = [
            Example(self.soft_prompts(each), self.prompts_of(each), each["answer"], names_of(each)) for each in examples
        ]
        soft_prompt = self.soft_prompts(batch)
        answers = self.net.language.generate(soft_prompt, prompts, examples=solved, **self.answering)
        blind = [None] * len(prompts)
        if self.no_image and self.evaluation.tests:
            unseen = [each._replace(prefix_BPD=None) for each in solved]
            blind = self.net.language.generate(None, prompts, examples=unseen, **self.answering)
        columns = (batch["question_id"], batch["question"], batch["question_type"], batch["answers"], answers, blind)
        own = [
            dict(task="vqa", image_id=m, question_id=i, question=q, question_type=t, answers=a, answer=p, no_image=n)
            for m, i, q, t, a, p, n in zip(batch["image_id"].tolist(), *columns)
        ]
        _add(own, batch, "written_id", "server")
        for row, ids in zip(own, zip(*(each["question_id"] for each in examples))):
            row["examples"] = list(ids)
        return own

    def prompts_of(self, batch: dict[str, Any]) -> list[str]:
        """The questions of a batch, as the language model gets them."""
        return [self.question.replace("{}", question) for question in batch["question"]]

    def soft_prompts(self, batch: dict[str, Any]) -> Tensor:
        """One soft prompt per question; an image with several questions is encoded once."""
        ids = batch["image_id"].tolist()
        places = {image_id: place for place, image_id in enumerate(ids)}
        name = "features" if "features" in batch else "image"
        features_BND = image_features(self.net.vision, {name: batch[name][list(places.values())]})
        rows = {image_id: row for row, image_id in enumerate(places)}
        image_R = torch.tensor([rows[image_id] for image_id in ids], device=features_BND.device)
        return self.net.soft_prompts(features_BND, batch["prompts"], image_R)

    def metrics(self) -> dict[str, float]:
        """Scores of the predictions of all ranks, computed on the first."""
        self.gather()
        own = [score(self.predictions, self.lemmatise, self.scoring, **self.scored_by)] if rank() == 0 else []
        (self.items,) = gather_lists(own)
        return {name: each.value() for name, each in self.items.items()}

    def gather(self) -> None:
        """Gather the predictions of all ranks, once."""
        if not self.gathered:
            self.predictions, self.gathered = gather_lists(self.predictions), True

    def write(self, name: str) -> None:
        """Write the predictions of all ranks to a file in the run's folder."""
        self.gather()
        folder = self.evaluation.folder
        if self.evaluation.first and folder:
            rows = sorted(self.predictions, key=key_of)
            write_text(folder / name, "".join(json.dumps(each) + "\n" for each in rows))

    def finish(self) -> None:
        """Remove the predictions that were saved in case of an interruption."""
        if self.unfinished and self.evaluation.first:
            self.unfinished.remove()

    def rules(self) -> dict[str, Any]:
        """How a test generates and scores its predictions (evaluation/rules.py)."""
        answering = {f"vqa_{name}": value for name, value in self.answering.items()}
        captioning = {f"caption_{name}": value for name, value in self.captioning.items()}
        captioning |= {"prompt": self.net.prompt, "caption_tokenizer": self.caption_scoring["tokenizer"]}
        how = {"in_context": self.in_context, "lemmatise": self.lemmatise, "scoring": self.scoring}
        return {"question": self.question} | answering | how | captioning

    def submit(self) -> None:
        """Write the files for evaluation servers beside the predictions."""
        submit(self.predictions, self.evaluation.folder if self.evaluation.first else None)


def _add(rows: list[dict[str, Any]], batch: dict[str, Any], *names: str) -> None:
    """Add columns to the rows, as far as the batch has them."""
    for name in names:
        for row, value in zip(rows, batch.get(name, ())):
            row[name] = value
