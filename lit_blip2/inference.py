"""A checkpoint of stage 2, or of joint training, looks at images and writes, without a Trainer.

The checkpoint carries the configuration it was trained with: which network to build, where its frozen weights are, how
a question is put and how many beams look for the answer. Nothing of the trainer is needed. `load`, `write` and `score`
do the same for batches, for whoever has images and prompts of his own.

Legend: B images, R prompts, P soft prompt positions, D width of the language model, L target tokens, V vocabulary.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_blip2 import words
from lit_blip2.checkpoint import carried, check_fits, read_checkpoint, trainable_state
from lit_blip2.config import MAX_UNKNOWN_WORDS, Experiment
from lit_blip2.contents import DataError
from lit_blip2.contents import shown as described
from lit_blip2.model.plain import shown
from lit_blip2.network import build_net, check_kept
from lit_blip2.runs import find_checkpoint
from lit_blip2.trust import NotAllowedError

DECODING = ("max_new_tokens", "num_beams", "length_penalty")  # what LanguageModel.generate is told
# What a checkpoint's configuration says of how it answers and of the images that it takes: type, and least value.
KINDS = {"max_new_tokens": (int, 1), "num_beams": (int, 1), "length_penalty": (int | float, -1000)}
HOW = {f"{task}_{name}": kind for task in ("vqa", "caption") for name, kind in KINDS.items()} | {"question": (str, 0)}
SEES = {"image_size": (int | None, 1), "max_unknown_words": (int | float | None, 0)}


class Loaded(NamedTuple):
    """A Stage2 ready to answer, and the settings of its run: its module's arguments, the images' size in pixels, and
    the share of a question's words that may be unknown."""

    net: Any
    settings: dict[str, Any]
    image_size: int
    max_unknown_words: float = MAX_UNKNOWN_WORDS


def answer(checkpoint: str | Path, image: str | Path, question: str | None = None, allow: Sequence[str] = ()) -> str:
    """The answer to a question about an image file, or without one its caption, as the run's evaluation makes them.

    allow: as `load` has it.

    Raises FileNotFoundError for a missing image, checkpoint or frozen weights; OSError for an image that cannot be
    read; ValueError for a checkpoint that is damaged, without a language model, or does not fit its configuration.
    """
    from lit_blip2.data.images import load_image
    from lit_blip2.data.transforms import eval_view

    if not Path(image).is_file():
        raise FileNotFoundError(f"no image file {str(image)!r}")
    picture = load_image(image)
    loaded = load(checkpoint, allow)
    if question is not None:
        check_question(loaded, question)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels_1CHW = eval_view(picture, loaded.image_size, loaded.net.vision.interpolation)[None].to(device)
    return generate(loaded._replace(net=loaded.net.to(device)), pixels_1CHW, question)


def check_question(loaded: Loaded, question: str) -> None:
    """Warn of a question's words that a tokenizer does not know. Raises ValueError where they are too many."""
    told = [
        words.Told(reader, f"the question {shown(question)!r}", plain.known([question]))
        for reader, (plain, kinds) in words.tokenizers(loaded.net).items()
        if words.QUESTIONS in kinds
    ]
    words.check_known(told, loaded.max_unknown_words)
    for each in told:
        if each.known.unknown:
            warnings.warn(str(each), stacklevel=3)


def generate(loaded: Loaded, pixels_1CHW: Tensor, question: str | None = None) -> str:
    """One image, pixels uint8, to its answer, or to its caption."""
    net, settings = loaded.net, loaded.settings
    if question is None:
        return write(net, pixels_1CHW, [net.prompt], **decoding(settings, "caption"))[0]
    return write(net, pixels_1CHW, [template(settings).replace("{}", question)], **decoding(settings, "vqa"))[0]


def decoding(settings: dict[str, Any], task: str) -> dict[str, Any]:
    """How a run's evaluation looks for answers (vqa) or captions (caption): arguments of LanguageModel.generate."""
    return {name: settings[f"{task}_{name}"] for name in DECODING if f"{task}_{name}" in settings}


@torch.inference_mode()
def write(net, pixels_BCHW: Tensor, prompts: Sequence[str], image_R: Tensor | None = None, **how) -> list[str]:
    """What a Stage2 writes after each of R prompts about images, pixels uint8.

    Args: image_R: int64, which image each prompt is about; None: one after the other. how: as LanguageModel.generate.
    """
    return net.language.generate(_soft_prompts(net, pixels_BCHW, prompts, image_R), prompts, **how)


@torch.inference_mode()
def score(
    net, pixels_BCHW: Tensor, prompts: Sequence[str], targets: Sequence[str], image_R: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How likely each of R targets is after its prompt: mean negative log-likelihood of its tokens (nats), the mark
    that ends it among them, float32 [R]; and whether each of them is the likeliest token at its place, bool [R].

    Args: image_R: as `write`. Raises ValueError for an empty target.
    """
    text = net.language.tokenise(prompts, targets).to(pixels_BCHW.device)
    logits_LV, row_L = net.language.logits(_soft_prompts(net, pixels_BCHW, prompts, image_R), text)
    losses_L = F.cross_entropy(logits_LV, text.target_L, reduction="none")
    missed_L = (logits_LV.argmax(dim=1) != text.target_L).float()
    count_R = torch.bincount(row_L, minlength=len(prompts))
    sums_2R = losses_L.new_zeros(2, len(prompts)).index_add(1, row_L, torch.stack([losses_L, missed_L]))
    return sums_2R[0] / count_R, sums_2R[1] == 0


def _soft_prompts(net, pixels_BCHW: Tensor, prompts: Sequence[str], image_R: Tensor | None) -> Tensor:
    """Soft prompts [R, P, D]; each image is looked at once."""
    read = net.read(prompts)
    return net.soft_prompts(net.vision(pixels_BCHW), None if read is None else read.to(pixels_BCHW.device), image_R)


def load(checkpoint: str | Path, allow: Sequence[str] = ()) -> Loaded:
    """The Stage2 of a checkpoint or run folder, frozen weights and trained ones, in eval mode.

    allow: packages, modules or classes, such as my_project, that its configuration may name. Raises ValueError, before
    anything is imported, for names that are neither of these nor of this package (SECURITY.md).
    """
    file = find_checkpoint(checkpoint)
    contents = read_checkpoint(file)
    experiment = carried(contents, file, allow)
    _check_answers(experiment)
    net = load_net(contents, experiment, file)
    if (stage2 := getattr(net, "stage2", net)) is None:
        raise ValueError(f"{file} comes from joint training with lm=null: its Q-Former speaks to no language model")
    for each in words.letters(stage2, (stage2.prompt, experiment.model.get("question", ""))):
        warnings.warn(each, stacklevel=2)
    size, limit = experiment.data["image_size"] or net.vision.size, experiment.data.get("max_unknown_words")
    return Loaded(stage2.eval(), experiment.model, size, *([] if limit is None else [limit]))


def load_net(contents: dict[str, Any], experiment: Experiment, file: Path, vision: bool = True) -> Any:
    """The network of a checkpoint, frozen weights and trained ones. vision: read the image encoder's too. Raises
    ValueError for contents that do not fit the experiment that the checkpoint carries."""
    try:
        net = build_net(experiment)
    except NotAllowedError:
        raise
    except ValueError as error:
        raise ValueError(f"a configuration that does not fit this version of the package: {error}") from error
    net.load(**({} if vision else {"vision": False}))
    state = {name.removeprefix("net."): value for name, value in contents["state_dict"].items()}
    check_fits(state, trainable_state(net), str(file))
    check_kept(contents, net, file)
    net.load_state_dict(state, strict=False)  # what is missing is what is frozen: check_fits saw to the rest
    return net


def _check_answers(experiment: Experiment) -> None:
    """Raises ValueError for a checkpoint whose configuration is missing, or has no language model, DataError for one
    whose settings of how it answers are of other types."""
    if "net" not in experiment.model or "image_size" not in experiment.data:
        raise ValueError(f"{experiment.source} carries no configuration: it must come from `python -m lit_blip2 fit`")
    if "language" not in experiment.net:
        raise ValueError(
            f"{experiment.source} is a stage-1 checkpoint, which has no language model to answer with: train stage 2 "
            "from it (fit with --model.init_from) and give that run"
        )
    for part, settings, kinds in (("model", experiment.model, HOW), ("data", experiment.data, SEES)):
        for name in kinds.keys() & settings.keys():
            _check_setting(settings[name], *kinds[name], f"{experiment.source}: {part}.{name}")


def _check_setting(value: Any, kind: Any, least: int, where: str) -> None:
    """Raises DataError for a value of another kind, below the least, or not finite."""
    sound = isinstance(value, kind) and not isinstance(value, bool)
    if not sound or not (isinstance(value, str | None) or least <= value < math.inf):
        number = "a number" if float in get_args(kind) else "a whole number"
        wanted = "a text" if kind is str else f"{number} from {least}"
        raise DataError(f"{where} is {described(value)}, where {wanted} is wanted: get the run again, or train another")


def template(settings: dict[str, Any]) -> str:
    """How a run puts a question, {} being its place. Raises ValueError where its configuration does not say."""
    if "question" not in settings:
        raise ValueError("the checkpoint's configuration has no model.question, by which a question is put")
    return settings["question"]
