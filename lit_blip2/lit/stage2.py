"""Stage 2 as a Lightning system: generative learning, with captions and zero-shot answers as its evaluation."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_blip2.checkpoint import check_fits, encoder_settings, qformer_state, read_checkpoint
from lit_blip2.evaluation.captioning import caption_scores
from lit_blip2.evaluation.vqa import summarise, vqa_scores
from lit_blip2.keyed import row_uniforms
from lit_blip2.lit.gather import gather_lists
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.bert import load_bert
from lit_blip2.model.language import Example
from lit_blip2.objectives.stage2 import Stage2


class LitStage2(LitBLIP2):
    """Generative learning (paper, 3.2).

    Args:
        net: encoder, bridge and language model.
        optimization: optimiser and schedule.
        init_from: stage-1 checkpoint or run folder that the Q-Former starts from; null: stage 1 is skipped, as it must
            be for a bridge without a Q-Former.
        bert: where stage 1 is skipped, folder of BERT weights that the Q-Former starts from; null: random.
        question: prompt of a question, {} being its place.
        vqa_max_new_tokens: longest answer, in tokens. vqa_num_beams: beams. vqa_length_penalty: see the paper.
        caption_max_new_tokens: longest caption, in tokens. caption_num_beams: beams.
        no_image: also answer every question without the image (vqa/no_image), in `test`.
        in_context: solved examples in front of every question, in `test` and `predict`; 0 is zero-shot. Each is put as
            the question is: its image's soft prompt, the question, the answer. They are validation questions about
            other images (test questions where there are no others), drawn by (data.seed, question id); without the
            image (vqa/no_image) theirs are left out too.
    """

    def __init__(
        self,
        net: Stage2,
        optimization: AdamWCosine,
        init_from: str | None = None,
        bert: str | None = None,
        question: str = "Question: {} Answer:",
        vqa_max_new_tokens: int = 10,
        vqa_num_beams: int = 5,
        vqa_length_penalty: float = -1.0,
        caption_max_new_tokens: int = 30,
        caption_num_beams: int = 5,
        no_image: bool = True,
        in_context: int = 0,
    ):
        super().__init__(net, optimization)
        if in_context < 0:
            raise ValueError(f"in_context={in_context} must not be negative")
        if question.count("{}") != 1:
            raise ValueError(f"question={question!r} must have one {{}}, the place of the question")
        if init_from and bert:
            raise ValueError(f"init_from={init_from!r}, bert={bert!r}: the Q-Former starts from one, set one to null")
        for name, value in (("init_from", init_from), ("bert", bert)):
            if value is not None and not hasattr(net.bridge, "qformer"):
                raise ValueError(
                    f"{name}={value!r} is what a Q-Former starts from, and {type(net.bridge).__name__} has none: "
                    f"--model.{name}=null"
                )
        self.init_from, self.bert, self.question, self.no_image = init_from, bert, question, no_image
        self.in_context, self.examples = in_context, None
        self.answering = dict(
            max_new_tokens=vqa_max_new_tokens, num_beams=vqa_num_beams, length_penalty=vqa_length_penalty
        )
        self.captioning = dict(max_new_tokens=caption_max_new_tokens, num_beams=caption_num_beams)

    def start(self) -> None:
        if self.init_from is not None:
            qformer = self.net.bridge.qformer
            checkpoint = read_checkpoint(self.init_from)
            if any(key.startswith("net.vision.") for key in checkpoint["state_dict"]):
                raise ValueError(
                    f"init_from={self.init_from!r} trained its image encoder too, and stage 2 would go on with the "
                    "original one: export the encoder and point model.net.vision.weights to it"
                )
            vision = self.net.vision
            for key, theirs in encoder_settings(checkpoint).items():
                if theirs != (ours := getattr(vision, key)):
                    raise ValueError(
                        f"init_from={self.init_from!r} was trained with vision.{key}={theirs!r}, this run has "
                        f"{ours!r}: its Q-Former knows no other features"
                    )
            state = qformer_state(checkpoint, self.init_from)
            check_fits(state, qformer.state_dict(), f"init_from={self.init_from!r}")
            qformer.load_state_dict(state)
        elif self.bert is not None:
            load_bert(self.net.bridge.qformer, None, self.bert)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Tokenise, draw random numbers and find examples while the batch is on the host."""
        if batch["task"] == "train":
            uniform_B = row_uniforms(batch["seed"], batch["step"], batch["row"])[:, 0]
            batch["text"] = self.net.objective.text(self.net.language, batch["caption"], self.net.prompt, uniform_B)
        elif batch["task"] == "caption":
            captions = [texts[0] for texts in batch["captions"]]
            uniform_B = row_uniforms(0, 0, batch["row"])[:, 0]
            batch["text"] = self.net.objective.text(self.net.language, captions, self.net.prompt, uniform_B)
        elif batch["task"] == "vqa" and self.examples is not None:
            batch["examples"] = self.examples.batches(batch["question_id"], batch["image_id"].tolist())
        return batch

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        names = {"loss/lm", "caption/cider", "caption/bleu4"} if "caption" in tasks else set()
        if "vqa" in tasks:
            names |= {"vqa/accuracy", "vqa/mean_over_types", "vqa/type_*"}
            names |= {"vqa/no_image"} if self.no_image and command == "test" else set()
        return names

    def losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return self.net(self.features(batch), batch["text"])

    def on_validation_epoch_start(self) -> None:
        self.predictions: list[dict[str, Any]] = []
        self.examples = None

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()
        if self.in_context:
            self.examples = self.trainer.datamodule.examples(self.in_context)

    on_predict_epoch_start = on_test_epoch_start

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch["task"] == "caption":
            self._caption(batch)
        elif batch["task"] == "vqa":
            self._answer(batch)

    def _caption(self, batch: dict[str, Any]) -> None:
        soft_prompt = self.net.bridge(self.features(batch))
        losses_L, _ = self.net.language.loss(soft_prompt, batch["text"])
        if not self.trainer.predicting:
            self.log("loss/lm", losses_L.mean(), batch_size=len(losses_L), add_dataloader_idx=False, sync_dist=True)
        texts = self.net.language.generate(soft_prompt, [self.net.prompt] * len(soft_prompt), **self.captioning)
        self.predictions += [
            {"task": "caption", "image_id": image_id, "caption": text, "references": references}
            for image_id, text, references in zip(batch["image_id"].tolist(), texts, batch["captions"])
        ]

    def _answer(self, batch: dict[str, Any]) -> None:
        prompts, examples = self._prompts(batch), batch.get("examples", [])
        solved = [Example(self._soft_prompts(each), self._prompts(each), each["answer"]) for each in examples]
        answers = self.net.language.generate(self._soft_prompts(batch), prompts, examples=solved, **self.answering)
        blind = [None] * len(prompts)
        if self.no_image and self.trainer.testing:
            unseen = [each._replace(prefix_BPD=None) for each in solved]
            blind = self.net.language.generate(None, prompts, examples=unseen, **self.answering)
        columns = (batch["question_id"], batch["question"], batch["question_type"], batch["answers"], answers, blind)
        own = [
            dict(task="vqa", question_id=i, question=q, question_type=t, answers=a, answer=p, no_image=n)
            for i, q, t, a, p, n in zip(*columns)
        ]
        for row, ids in zip(own, zip(*(each["question_id"] for each in examples))):
            row["examples"] = list(ids)
        self.predictions += own

    def _prompts(self, batch: dict[str, Any]) -> list[str]:
        return [self.question.replace("{}", question) for question in batch["question"]]

    def _soft_prompts(self, batch: dict[str, Any]) -> Tensor:
        """One soft prompt per question; an image with several questions is looked at once."""
        ids = batch["image_id"].tolist()
        places = {image_id: place for place, image_id in enumerate(ids)}
        distinct = list(places)
        name = "features" if "features" in batch else "image"
        images = {name: batch[name][[places[image_id] for image_id in distinct]]}
        rows = {image_id: row for row, image_id in enumerate(distinct)}
        return self.net.bridge(self.features(images))[[rows[image_id] for image_id in ids]]

    def on_validation_epoch_end(self) -> None:
        """Scores of the predictions of all ranks; the predictions themselves go beside the metrics."""
        self.predictions = gather_lists(self.predictions)
        captions = [each for each in self.predictions if each["task"] == "caption"]
        answers = [each for each in self.predictions if each["task"] == "vqa"]
        metrics = {}
        if captions:
            pairs = [(each["caption"], each["references"]) for each in captions]
            metrics |= caption_scores([text for text, _ in pairs], [references for _, references in pairs])
        if answers:
            truths, types = [each["answers"] for each in answers], [each["question_type"] for each in answers]
            metrics |= summarise(vqa_scores([each["answer"] for each in answers], truths), types)
            if answers[0]["no_image"] is not None:
                blind = summarise(vqa_scores([each["no_image"] for each in answers], truths), types)
                metrics["vqa/no_image"] = blind["vqa/mean_over_types"]
        self.log_dict(metrics)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()
        self.log_test_step()
        self._write_predictions("predictions.jsonl")

    def _write_predictions(self, name: str) -> None:
        folder = self.trainer.log_dir  # asks all ranks, so it comes before any of them leaves
        if self.trainer.is_global_zero and folder:
            lines = "".join(json.dumps(each) + "\n" for each in self.predictions)
            Path(folder, name).write_text(lines)

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Captions and answers, for predict.jsonl; those of a test, in predictions.jsonl, stay."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self) -> None:
        self.predictions = gather_lists(self.predictions)
        self._write_predictions("predict.jsonl")
