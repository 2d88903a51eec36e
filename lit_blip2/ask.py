"""`ask` and `caption`: a checkpoint of stage 2, or of joint training, looks at an image and writes one line.

The checkpoint carries the configuration it was trained with: which network to build, where its frozen weights are, how
a question is put and how many beams look for the answer. Nothing of the trainer is needed.
"""

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from lit_blip2.checkpoint import check_fits, find_checkpoint, read_checkpoint, trainable_state

HELP = {
    "ask": """Answer a question about an image. The answer goes to standard output, alone.

  python -m lit_blip2 ask --checkpoint runs/mini_opt image.png "what shape is the red object ?"

The mini-world's model knows the words of its own questions only: what color is the star ? what shape is the red
object ? where is the blue ring ? how many objects are there ? is there a red star ? is the ring above the star ?""",
    "caption": """Describe an image. The caption goes to standard output, alone.

  python -m lit_blip2 caption --checkpoint runs/mini_opt image.png""",
}
CHECKPOINT_HELP = (
    "a checkpoint of stage 2 or of joint training: a file, or a run's folder (its last checkpoint). Frozen weights are "
    "read from where the run read them: relative paths start in the working folder, else beside the package."
)


class Loaded(NamedTuple):
    """A Stage2 ready to answer, and the settings of its run: its module's arguments and the images' size in pixels."""

    net: Any
    settings: dict[str, Any]
    image_size: int


def main(command: str, arguments: list[str]) -> None:
    """Run `ask` or `caption`: one line on standard output. What is wrong with the files ends in status 1 and a line on
    standard error, what is wrong with the arguments in status 2."""
    options = _parse(command, arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        print(answer(options.checkpoint, options.image, getattr(options, "question", None)))
    except (OSError, ValueError) as error:
        sys.exit(f"{command}: {error}")


def _parse(command: str, arguments: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog=f"python -m lit_blip2 {command}",
        description=HELP[command],
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN_OR_FILE", help=CHECKPOINT_HELP)
    parser.add_argument("image", metavar="IMAGE", help="an image file, as Pillow reads them")
    if command == "ask":
        parser.add_argument("question", metavar="QUESTION", help="one question, in quotation marks")
    options = parser.parse_args(arguments)
    if command == "ask" and not options.question.strip():
        parser.error("the question is empty")
    return options


def answer(checkpoint: str | Path, image: str | Path, question: str | None = None) -> str:
    """The answer to a question about an image file, or without one its caption, as the run's evaluation makes them.

    Raises FileNotFoundError for a missing image, checkpoint or frozen weights; OSError for an image that cannot be
    read; ValueError for a checkpoint that is damaged, without a language model, or does not fit its configuration.
    """
    from lit_blip2.data.images import load_image
    from lit_blip2.data.transforms import eval_transform

    if not Path(image).is_file():
        raise FileNotFoundError(f"no image file {str(image)!r}")
    picture = load_image(image)
    loaded = load(checkpoint)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pixels_1CHW = eval_transform(picture, loaded.image_size)[None].to(device)
    return generate(loaded._replace(net=loaded.net.to(device)), pixels_1CHW, question)


@torch.inference_mode()
def generate(loaded: Loaded, pixels_1CHW: Tensor, question: str | None = None) -> str:
    """One normalised image to its answer, or to its caption."""
    net, settings = loaded.net, loaded.settings
    task = "caption" if question is None else "vqa"
    prompt = net.prompt if question is None else settings["question"].replace("{}", question)
    how = {name: settings[f"{task}_{name}"] for name in ("max_new_tokens", "num_beams")}
    if question is not None:
        how["length_penalty"] = settings["vqa_length_penalty"]
    read = net.read([prompt])
    soft_prompt = net.soft_prompts(net.vision(pixels_1CHW), None if read is None else read.to(pixels_1CHW.device))
    return net.language.generate(soft_prompt, [prompt], **how)[0]


def load(checkpoint: str | Path) -> Loaded:
    """The Stage2 of a checkpoint or run folder, frozen weights and trained ones, in eval mode."""
    file = find_checkpoint(checkpoint)
    contents = read_checkpoint(file)
    settings, data = _sections(contents, file)
    net = _build(settings["net"], file)
    stage2 = getattr(net, "stage2", net)
    if stage2 is None:
        raise ValueError(f"{file} comes from joint training with lm=null: its Q-Former speaks to no language model")
    net.load()
    state = {name.removeprefix("net."): value for name, value in contents["state_dict"].items()}
    check_fits(state, trainable_state(net), str(file))
    net.load_state_dict(state, strict=False)  # what is missing is what is frozen: check_fits saw to the rest
    return Loaded(stage2.eval(), settings, data["image_size"])


def _sections(contents: dict, file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the model and of the data module, from the configuration in a checkpoint."""
    config = yaml.safe_load(contents.get("config") or "") or {}
    model, data = (config.get(part, {}).get("init_args", {}) for part in ("model", "data"))
    if "net" not in model or "image_size" not in data:
        raise ValueError(f"{file} carries no configuration: it must come from `python -m lit_blip2 fit`")
    net = model["net"].get("init_args", model["net"])
    if "language" not in net:
        raise ValueError(
            f"{file} is a stage-1 checkpoint, which has no language model to answer with: train stage 2 from it "
            "(fit with --model.init_from) and give that run"
        )
    return model, data


def _build(config: dict[str, Any], file: Path):
    """Stage2 or Joint from its part of the configuration, without weights."""
    from jsonargparse import ArgumentError
    from jsonargparse import ArgumentParser as TypedParser

    from lit_blip2.objectives.joint import Joint
    from lit_blip2.objectives.stage2 import Stage2

    parser = TypedParser(exit_on_error=False)
    parser.add_argument("--net", type=Joint if "lm" in config.get("init_args", config) else Stage2)
    try:
        return parser.instantiate(parser.parse_object({"net": config})).net
    except ArgumentError as error:
        raise ValueError(f"the configuration in {file} does not fit this version of the package: {error}") from error
