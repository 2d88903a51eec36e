"""`ask` and `caption`: answer a question about an image, or describe it, with a trained run."""

import os
from argparse import Namespace

from lit_blip2.arguments import Arguments, refused
from lit_blip2.commands.caption import add_arguments, caption_many, many
from lit_blip2.data.images import as_rgb
from lit_blip2.inference import load
from lit_blip2.terminal import say
from lit_blip2.trust import add_allow

HELP = {
    "ask": """Answer a question about an image. Standard output gets the answer and nothing else.

  python -m lit_blip2 ask --checkpoint runs/mini_opt image.png "what shape is the red object ?"

The mini-world's model knows only the words of its own questions: what color is the star ? what shape is the red
object ? where is the blue ring ? how many objects are there ? is there a red star ? is the ring above the star ?""",
    "caption": """Describe one image, or many.

  python -m lit_blip2 caption --checkpoint runs/mini_opt image.png
  python -m lit_blip2 caption --checkpoint runs/mini_opt folder --out captions.jsonl

The caption of one image goes to standard output. The captions of a folder, or of a table (.csv, .tsv or .jsonl with
a column image), go to the file --out. After an interruption the same command continues that file. Images that cannot
be read are listed and skipped, and the exit status is then 1.""",
}
CHECKPOINT_HELP = (
    "a checkpoint of stage 2 or of joint training: a file, or a run's folder, whose newest checkpoint is used. Frozen "
    "weights are read from the paths in the run's configuration: relative paths start in the working folder, else "
    "beside the package. An imported run holds its frozen weights in its own folder."
)


def main(command: str, arguments: list[str]) -> int:
    """Run `ask` or `caption`. Returns the exit status: 0; 1 if some of many images cannot be read; 2 after an error,
    whose reason is printed."""
    options = _parse(command, arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if command == "caption" and (pictures := many(options)) is not None:
            return caption_many(options, pictures)
        picture = as_rgb(options.image)
        run = load(options.checkpoint, precision=options.precision, allow=options.allow, writes=True)
        say(run.caption(picture) if command == "caption" else run.ask(picture, options.question))
    except (OSError, ValueError, ImportError) as error:
        return refused(error)
    return 0


def _parse(command: str, arguments: list[str]) -> Namespace:
    parser = Arguments(command, HELP[command])
    parser.add_argument("--checkpoint", required=True, metavar="RUN_OR_FILE", help=CHECKPOINT_HELP)
    add_allow(parser)
    parser.add_argument("--precision", help="precision: 32-true, bf16-mixed or 16-mixed (default: the run's)")
    kinds = "" if command == "ask" else "; or a folder of images, or a table that names images"
    parser.add_argument("image", metavar="IMAGE", help=f"an image file in a format that Pillow reads{kinds}")
    if command == "caption":
        add_arguments(parser)
    if command == "ask":
        parser.add_argument("question", metavar="QUESTION", help="one question, in quotation marks")
    options = parser.parse_args(arguments)
    if command == "ask" and not options.question.strip():
        parser.error("the question is empty")
    return options
