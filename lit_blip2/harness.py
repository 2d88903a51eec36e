"""A checkpoint of stage 2 or of joint training as a model of lmms-eval, the harness with the tasks that others report.

    pip install -e .[lmms]                         # lmms-eval then finds the model by this package's entry point
    python -m lmms_eval --model lit_blip2 --model_args checkpoint=runs/mini_opt --tasks pope --batch_size 16
    python -m lit_blip2.harness --model lit_blip2 ...             # the same where this package is not installed
    accelerate launch -m lmms_eval --model lit_blip2 ...          # several processes, each with its share of the tasks

A task's text is put through the run's own question template. `--model_args checkpoint=...,question=a photo of` gives
another: for captions one without {}, which leaves the task's text out. Tasks add instructions of their own ("Answer
the question using a single word or phrase."); a copy of a task's YAML with `lmms_eval_specific_kwargs: {lit_blip2:
{pre_prompt: "", post_prompt: ""}}` under `--include_path` has none. Answers follow the task's generation_kwargs, and
the run's evaluation for the rest. `--gen_kwargs num_beams=5,length_penalty=-1` are the paper's for VQA. A request has
exactly one image. Tasks that sample, and tasks of several rounds, are refused.

Legend: B images of a batch, R its requests.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lit_blip2.inference import load
from lit_blip2.loaded import DECODING, decoding, template
from lit_blip2.terminal import printable

SAMPLING = ("temperature", "do_sample", "top_p", "top_k")


def manifest():
    """The ModelManifest that lmms-eval's group of entry points asks for: the model's name, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest  # its package reads entry points, and so imports this file

    return ModelManifest("lit_blip2", simple_class_path="lit_blip2.harness.BLIP2")


class BLIP2(lmms):
    """A checkpoint that answers lmms-eval's requests, batch by batch.

    Args:
        checkpoint: a file, or a run's folder (its last checkpoint).
        question: template of the prompt, {} is the task's text; null: the run's own.
        batch_size: requests at once, on each device.
        allow: packages, modules or classes that the checkpoint's configuration may name beside this package's own, with
            spaces between them, such as my_project; see SECURITY.md.
        device: null: a GPU if there is one; with several processes, accelerate gives each process its own.
    """

    def __init__(
        self,
        checkpoint: str,
        question: str | None = None,
        batch_size: int | str = 1,
        allow: str = "",
        device: str | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size={batch_size!r} must be a whole number of requests, 1 or more")
        self.batch_size, self.device = int(batch_size), self._choose_device(device)
        self.run = load(checkpoint, self.device, allow=str(allow).split(), writes=True)
        self.question = template(self.run.settings) if question is None else str(question)
        self.answering = decoding(self.run.settings, "vqa")

    def _choose_device(self, device: str | None) -> torch.device:
        """The device of this process. With several, the evaluator lets them wait for each other by accelerate."""
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device is not None:
            raise ValueError(f"device={device!r} with several processes: leave it out, accelerate gives each its own")
        from accelerate import Accelerator

        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        return self.accelerator.device

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each request. Raises ValueError, naming task and document, for what cannot be answered."""
        texts: list[str] = []
        with self._bar(requests) as bar:
            for (task, wishes), group in groupby(requests, key=lambda each: (each.task_name, each.args[1])):
                how, ends = self._decoding(task, wishes), _as_list(wishes.get("until"))
                for batch in self._batches(list(group)):
                    prompts, pixels_BCHW, image_R = self._inputs(batch)
                    with _named(batch, "; --gen_kwargs max_new_tokens=10 asks for short answers"):
                        made = self.run.write(pixels_BCHW, prompts, image_R, **how)
                    texts += [_until(text, ends) for text in made]
                    bar.update(len(batch))
        return texts

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The loss of each continuation, and whether greedy search would write it: pairs (float, bool).

        The loss is a mean negative log-likelihood (Loaded.score), although lmms-eval's base class speaks of a
        log-likelihood: its own models return the loss, and its multiple choice takes the smallest. Each pair is
        wrapped, because the evaluator (0.7.3) turns a bare one into a string.
        """
        scores: list[GenerationResult] = []
        with self._bar(requests) as bar:
            for batch in self._batches(requests):
                prompts, pixels_BCHW, image_R = self._inputs(batch)
                targets = [self._continuation(each) for each in batch]
                with _named(batch):
                    losses_R, greedy_R = self.run.score(pixels_BCHW, prompts, targets, image_R)
                scores += map(GenerationResult, zip(losses_R.tolist(), greedy_R.tolist()))
                bar.update(len(batch))
        return scores

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Raises NotImplementedError: the model reads one image and one prompt."""
        raise NotImplementedError(f"task {requests[0].task_name} has several rounds: this model answers one prompt")

    def _decoding(self, task: str, wishes: dict[str, Any]) -> dict[str, Any]:
        """Arguments of LanguageModel.generate for a task's generation_kwargs. Raises ValueError if the task samples."""
        temperature = wishes.get("temperature", 1 if wishes.get("do_sample") else 0)
        if temperature and wishes.get("do_sample", True):
            raise ValueError(
                f"task {task} samples its answers (temperature={temperature}), this model searches for them: "
                "give --gen_kwargs temperature=0,do_sample=False"
            )
        if unused := sorted(wishes.keys() - {*DECODING, *SAMPLING, "until"}):
            told = f"task {task}: {', '.join(unused)} of its generation_kwargs not used by this model"
            logger.warning(printable(told))
        return self.answering | {name: wishes[name] for name in DECODING if wishes.get(name) is not None}

    def _inputs(self, batch: Sequence[Instance]) -> tuple[list[str], Tensor, Tensor]:
        """Prompts, images uint8 [B, 3, size, size] and, int64 [R], which image each prompt is about."""
        documents = [each.args[3:6] for each in batch]
        requests = dict(zip(documents, batch))  # choices share their document's image
        pixels_BCHW = self.run.pixels([self._image(each) for each in requests.values()])
        places = {document: place for place, document in enumerate(requests)}
        image_R = torch.tensor([places[document] for document in documents])
        texts = [each.args[0].replace("<image>", "").strip() for each in batch]
        prompts = [self.question.replace("{}", text) for text in texts]
        return prompts, pixels_BCHW, image_R.to(self.device)

    def _image(self, request: Instance) -> Image.Image:
        looks = request.args[2:3]  # mutual information asks for choices alone, with neither image nor document
        visuals = _as_list(looks[0](self._document(request)) if looks else None)
        if len(visuals) != 1 or not isinstance(visuals[0], Image.Image):
            kinds = ", ".join(type(each).__name__ for each in visuals) or "none"
            raise ValueError(
                f"task {request.task_name}, document {request.doc_id}: its images are {kinds}, and this model looks at "
                "exactly one (PIL)"
            )
        return visuals[0]

    def _continuation(self, request: Instance) -> str:
        target = request.args[1]
        return str(target(self._document(request))) if callable(target) else target

    def _document(self, request: Instance) -> Any:
        doc_id, task, split = request.args[3:6]
        return self.task_dict[task][split][doc_id]

    def _batches(self, requests: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
        yield from (requests[at : at + self.batch_size] for at in range(0, len(requests), self.batch_size))

    def _bar(self, requests: Sequence[Instance]) -> tqdm:
        return tqdm(total=len(requests), desc="lit_blip2", disable=self.rank != 0)


@contextmanager
def _named(batch: Sequence[Instance], way_out: str = "") -> Iterator[None]:
    """Add the task and the documents of a batch to the model's ValueError."""
    try:
        yield
    except ValueError as error:
        documents = [each.doc_id for each in batch]
        raise ValueError(f"task {batch[0].task_name}, among documents {documents}: {error}{way_out}") from error


def _until(text: str, ends: Sequence[str]) -> str:
    """The text before the first of `ends` in it."""
    for end in filter(None, ends):
        text = text.split(end)[0]
    return text.strip()


def _as_list(value: Any) -> list:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def main() -> None:
    """lmms-eval's command line, with this model in its registry."""
    import runpy

    from lmms_eval.models import MODEL_REGISTRY_V2

    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    runpy.run_module("lmms_eval", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
