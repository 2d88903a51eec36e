"""Loaded, a trained run in Python: captions, answers, features and image-text scores, without a Trainer.

It uses the settings of the run's own evaluation. docs/python.md shows examples.

Legend: B images of a batch, I images, R prompts or pairs, T texts, Q queries, D width of the Q-Former, P positions of
a soft prompt, W width of the language model, L target tokens, V vocabulary.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2 import words
from lit_blip2.checkpoint_net import check_writes
from lit_blip2.config import MAX_UNKNOWN_WORDS, Experiment
from lit_blip2.data.annotations.captions import clean_caption
from lit_blip2.data.images import as_rgb
from lit_blip2.data.transforms import eval_view
from lit_blip2.given import Picture, as_given, joined, listed, paired, rows_of_once
from lit_blip2.model import masks
from lit_blip2.model.plain import shown
from lit_blip2.model.qformer import Pass
from lit_blip2.objectives.itc import similarity
from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.objectives.stage2 import Stage2

DECODING = ("max_new_tokens", "num_beams", "length_penalty")  # what LanguageModel.generate is told
MIXED = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Features(NamedTuple):
    """Features of images, float tensors on the CPU.

    queries: query outputs of the Q-Former, [Q, D] for one image, [I, Q, D] for a list; None for a bridge without
    queries. soft_prompt: the soft prompt for the language model, [P, W] or [I, P, W]; None for stage 1.
    """

    queries: Tensor | None
    soft_prompt: Tensor | None


class Loaded:
    """A trained run that captions images, answers questions and scores texts. `lit_blip2.load` returns it.

    An image is a PIL image of any mode, or the path of a file. It is rotated by its EXIF tag, and resized and
    normalised as in the run's evaluation. One image gives one result; a list gives a list in the same order, computed
    in batches of `batch_size`. Images and texts are paired one to one; one text may go with all images, and one image
    with all texts (it is then encoded once).

    Attributes:
        net: the network, Stage1, Stage2 or Joint, in eval mode.
        stage1, stage2: `net` or its parts; None for a stage that the run lacks.
        file: path of the checkpoint.
        settings: arguments of the run's LightningModule.
        image_size: height and width of images in pixels.
        batch_size: number of images at a time; at first the run's data.eval_batch_size.
        device, precision: device and precision of all computations.

    Every method raises FileNotFoundError for a missing file, UnreadableImageError for a file that is not an image,
    TypeError for other types, and ValueError for what the run cannot do.
    """

    def __init__(self, net: nn.Module, experiment: Experiment, file: Path, device: torch.device, precision: str):
        self.net, self.experiment, self.file = net.to(device).eval(), experiment, file
        self.device, self.precision = device, precision
        self.settings, data = experiment.model, experiment.data
        first, second = (net.stage1, net.stage2) if isinstance(net, Joint) else (net, net)
        self.stage1: Stage1 | None = first if hasattr(first, "encode_images") else None
        self.stage2: Stage2 | None = second if hasattr(second, "language") else None
        self.image_size, self.batch_size = data["image_size"] or net.vision.size, data.get("eval_batch_size", 64)
        self.max_caption_words, limit = data.get("max_caption_words", 50), data.get("max_unknown_words")
        self.max_unknown_words = MAX_UNKNOWN_WORDS if limit is None else limit

    def __repr__(self) -> str:
        kind = type(self.net).__name__
        return f"{kind} of {self.file}, images of {self.image_size} px, {self.precision} on {self.device}"

    def caption(self, images: Picture | Sequence[Picture]) -> str | list[str]:
        """Captions of images, generated as in the run's `test`. Raises ValueError for a run without language model."""
        prompt, how = self._writer().prompt, decoding(self.settings, "caption")
        images, prompts, one = paired(images, prompt)
        made = (self.write(pixels, each, image_R, **how) for pixels, image_R, each in self._batches(images, prompts))
        return as_given(joined(made), one)

    def ask(self, images: Picture | Sequence[Picture], questions: str | Sequence[str]) -> str | list[str]:
        """Answers to questions about images, generated as in the run's `test`, but always zero-shot.

        Warns of words that a tokenizer does not know. Raises ValueError if their share exceeds
        data.max_unknown_words, for an empty question, and for a run without language model.
        """
        net, how = self._writer(), decoding(self.settings, "vqa")
        question = template(self.settings)
        images, asked, one = paired(images, questions)
        _check_words(net, words.QUESTIONS, "the question", asked, self.max_unknown_words)
        prompts = [question.replace("{}", each) for each in asked]
        made = (self.write(pixels, each, image_R, **how) for pixels, image_R, each in self._batches(images, prompts))
        return as_given(joined(made), one)

    @torch.no_grad()  # its tensors may be trained on
    def features(self, images: Picture | Sequence[Picture]) -> Features:
        """Query outputs and soft prompts of images. A bridge that reads prompts gets the run's captioning prompt.

        Raises ValueError for an empty list.
        """
        images, one = listed(images)
        if not images:
            raise ValueError("no image is given: features are of one at least")
        made = [self._features(self.pixels(each)) for each in self._parts(images)]
        queries, soft_prompts = ([part for part in parts if part is not None] for parts in zip(*made))
        both = (torch.cat(parts) if parts else None for parts in (queries, soft_prompts))
        return Features(*(part[0] if one and part is not None else part for part in both))

    @torch.no_grad()  # its tensors may be trained on
    def similarity(self, images: Picture | Sequence[Picture], texts: str | Sequence[str]) -> Tensor:
        """ITC similarity, by which retrieval ranks: the cosine of each text with the image's best query.

        Returns float [I, T] on the CPU; [T] for one image, [I] for one text. Raises ValueError for a run without ITC,
        an empty list, or a text without words.
        """
        net, (images, one_image), (texts, one_text) = self._head("itc"), listed(images), listed(texts)
        if not (images and texts):
            raise ValueError(f"no {'text' if images else 'image'} is given: similarities are of one at least")
        texts = self._texts(texts)
        with self._autocast():
            encoded = [net.encode_texts(net.tokenizer(each).to(self.device)) for each in self._parts(texts)]
            seen = (net.encode_images(net.vision(self.pixels(each)))[0] for each in self._parts(images))
            cosine_IT = torch.cat([similarity(image_BQP, torch.cat(encoded)).float().cpu() for image_BQP in seen])
        cosine_IT = cosine_IT[:, 0] if one_text else cosine_IT
        return cosine_IT[0] if one_image else cosine_IT

    @torch.inference_mode()
    def match(self, images: Picture | Sequence[Picture], texts: str | Sequence[str]) -> float | list[float]:
        """ITM probability, 0 to 1, that each text describes its image. Raises ValueError for a run without ITM, or a
        text without words."""
        net, (images, texts, one) = self._head("itm"), paired(images, texts)
        made = []
        for pixels, image_R, chosen in self._batches(images, self._texts(texts)):
            with self._autocast():
                features_BND = net.vision(pixels)
            image = net.qformer.project_image(features_BND).select(image_R)  # in full precision, as in re-ranking
            logits_R2 = net.match_logits(image, net.tokenizer(chosen).to(self.device))
            made.append(logits_R2.float().softmax(-1)[:, 1].tolist())
        return as_given(joined(made), one)

    @torch.inference_mode()
    def write(
        self, pixels_BCHW: Tensor, prompts: Sequence[str], image_R: Tensor | None = None, **how: Any
    ) -> list[str]:
        """The text that the language model generates after each of R prompts.

        Args:
            pixels_BCHW: images, uint8, as `pixels` returns them.
            prompts: R prompts.
            image_R: int64, the index of each prompt's image; None: prompt i belongs to image i.
            how: arguments of LanguageModel.generate.
        """
        with self._autocast():
            return self._writer().language.generate(self._soft_prompts(pixels_BCHW, prompts, image_R), prompts, **how)

    @torch.inference_mode()
    def score(
        self, pixels_BCHW: Tensor, prompts: Sequence[str], targets: Sequence[str], image_R: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Likelihood of each of R targets after its prompt.

        Returns the mean negative log-likelihood in nats of a target's tokens, its end token included, float32 [R]; and
        whether every token is the most likely one at its position, bool [R]. `image_R` is as in `write`. Raises
        ValueError for an empty target.
        """
        language = self._writer().language
        text = language.tokenise(prompts, targets).to(pixels_BCHW.device)
        with self._autocast():
            logits_LV, row_L = language.logits(self._soft_prompts(pixels_BCHW, prompts, image_R), text)
            losses_L = F.cross_entropy(logits_LV, text.target_L, reduction="none")
        missed_L = (logits_LV.argmax(dim=1) != text.target_L).float()
        count_R = torch.bincount(row_L, minlength=len(prompts))
        sums_2R = losses_L.new_zeros(2, len(prompts)).index_add(1, row_L, torch.stack([losses_L, missed_L]))
        return sums_2R[0] / count_R, sums_2R[1] == 0

    def pixels(self, images: Sequence[Picture]) -> Tensor:
        """Images resized as in the run's evaluation: uint8 [B, 3, image_size, image_size] on the device."""
        filtered = self.net.vision.interpolation
        return torch.stack([eval_view(as_rgb(each), self.image_size, filtered) for each in images]).to(self.device)

    def _batches(
        self, images: Sequence[Picture], texts: Sequence[str]
    ) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
        """For each batch: pixels of its images (each once), index of each row's image, int64 [R], and R texts."""
        for chosen, own in zip(self._parts(images), self._parts(texts)):
            once, rows = rows_of_once(chosen)
            yield self.pixels(once), torch.tensor(rows, device=self.device), own

    def _parts(self, given: Sequence[Any]) -> Iterator[Sequence[Any]]:
        yield from (given[at : at + self.batch_size] for at in range(0, len(given), self.batch_size))

    def _features(self, pixels_BCHW: Tensor) -> Features:
        """Features of a batch. The query outputs come from the same pass that makes the soft prompt."""
        seen, prompts = [], [getattr(self.stage2, "prompt", "")] * len(pixels_BCHW)
        with self._autocast():
            if self.stage2 is None:
                image = self.stage1.qformer.project_image(self.net.vision(pixels_BCHW))
                (output,) = self.stage1.qformer([Pass(masks.UNIMODAL, image=image)])
                return Features(output.query_RQD.cpu(), None)
            if (qformer := getattr(self.stage2.bridge, "qformer", None)) is None:
                return Features(None, self._soft_prompts(pixels_BCHW, prompts).cpu())
            hook = qformer.register_forward_hook(lambda part, given, outputs: seen.append(outputs[0].query_RQD))
            try:
                soft_prompt_BPW = self._soft_prompts(pixels_BCHW, prompts)
            finally:
                hook.remove()
        return Features(seen[0].cpu(), soft_prompt_BPW.cpu())

    def _soft_prompts(self, pixels_BCHW: Tensor, prompts: Sequence[str], image_R: Tensor | None = None) -> Tensor:
        """Soft prompts [R, P, W]; each image is encoded once."""
        net = self._writer()
        read = net.read(prompts)
        read = None if read is None else read.to(pixels_BCHW.device)
        return net.soft_prompts(net.vision(pixels_BCHW), read, image_R)

    def _autocast(self) -> AbstractContextManager:
        """The autocast that the Trainer uses at this precision. As there, 16-mixed becomes bf16-mixed on a CPU."""
        if (dtype := MIXED[self.precision]) is None:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.device.type == "cpu" else dtype)

    def _writer(self) -> Stage2:
        """The stage with the language model. Raises ValueError for a run without one."""
        if self.stage2 is None:
            check_writes(self.experiment)
            raise ValueError(f"{self.file}: its {type(self.net).__name__} has no language model")
        return self.stage2

    def _head(self, name: str) -> Stage1:
        """The stage with the head `name`, itc or itm. Raises ValueError for a run without it."""
        if getattr(self.stage1, name, None) is not None:
            return self.stage1
        if self.stage1 is not None:
            raise ValueError(f"{self.file} was trained with {name}=null: take a run of stage 1 that has it on")
        start = self.settings.get("init_from")
        own = f", such as the one that it started from, {start}" if isinstance(start, str) else ""
        raise ValueError(f"{self.file} is of stage 2, which has no {name.upper()}: load a run of stage 1{own}")

    def _texts(self, texts: Sequence[str]) -> list[str]:
        """Texts cleaned as captions are for retrieval. Raises ValueError for a text without words, or with too many
        unknown words."""
        cleaned = [clean_caption(each, self.max_caption_words) for each in texts]
        if "" in cleaned:
            raise ValueError(f"the text {texts[cleaned.index('')]!r} holds no word")
        _check_words(self.stage1, words.CAPTIONS, "the text", cleaned, self.max_unknown_words)
        return cleaned


def template(settings: dict[str, Any]) -> str:
    """The run's prompt for a question, in which {} stands for the question. Raises ValueError if it has none."""
    if "question" not in settings:
        raise ValueError("the checkpoint's configuration has no model.question, by which a question is put")
    return settings["question"]


def decoding(settings: dict[str, Any], task: str) -> dict[str, Any]:
    """How a run generates answers (task "vqa") or captions ("caption"): arguments of LanguageModel.generate."""
    return {name: settings[f"{task}_{name}"] for name in DECODING if f"{task}_{name}" in settings}


def _check_words(net: nn.Module, kind: str, what: str, texts: Sequence[str], limit: float) -> None:
    """Warn of words that a tokenizer of the network does not know. Raises ValueError if their share exceeds `limit`,
    and for an empty text."""
    if any(not each.strip() for each in texts):
        raise ValueError(f"{what} is empty")
    readers = [(reader, plain) for reader, (plain, kinds) in words.tokenizers(net).items() if kind in kinds]
    for text in dict.fromkeys(texts):
        told = [words.Told(reader, f"{what} {shown(text)!r}", plain.known([text])) for reader, plain in readers]
        simple = " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))
        better = any(plain.known([simple]).unknown < each.known.unknown for (_, plain), each in zip(readers, told))
        hint = f". More words are known of {simple!r}" if better else ""
        try:
            words.check_known(told, limit)
        except ValueError as error:
            raise ValueError(f"{error}{hint}") from None
        for each in told:
            if each.known.unknown:
                warnings.warn(f"{each}{hint}", stacklevel=4)
