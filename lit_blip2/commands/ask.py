"""`ask` and `caption`: a run looks at an image and writes one line."""

import os
import warnings
from argparse import Namespace

from lit_blip2.arguments import Arguments, refused
from lit_blip2.commands.caption import add_arguments, caption_many, many
from lit_blip2.data.images import as_rgb
from lit_blip2.inference import load
from lit_blip2.terminal import say
from lit_blip2.trust import add_allow

HELP = {
    "ask": """Answer a question about an image. The answer goes to standard output, alone.

  python -m lit_blip2 ask --checkpoint runs/mini_opt image.png "what shape is the red object ?"

The mini-world's model knows the words of its own questions only: what color is the star ? what shape is the red
object ? where is the blue ring ? how many objects are there ? is there a red star ? is the ring above the star ?""",
    "caption": """Describe an image, whose caption goes to standard output, alone; or all pictures of a folder or of a
table (.csv, .tsv or .jsonl with a column image), whose captions go to a file. The same command again goes on where it
stopped. Pictures that cannot be read are named and passed over: the status is 1 then.

  python -m lit_blip2 caption --checkpoint runs/mini_opt image.png
  python -m lit_blip2 caption --checkpoint runs/mini_opt folder --out captions.jsonl""",
}
CHECKPOINT_HELP = (
    "a checkpoint of stage 2 or of joint training: a file, or a run's folder (its last checkpoint). Frozen weights are "
    "read from where the run read them: relative paths start in the working folder, else beside the package; what an "
    "import has put into its run's folder is read from there."
)


def main(command: str, arguments: list[str]) -> int:
    """Run `ask` or `caption`: one line on standard output, of many pictures a file. 0; 1 where some of them
    could not be read; 2 with the reason where it cannot be done."""
    options = _parse(command, arguments)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"{command}: {message}", error=True)
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
    parser.add_argument("--precision", help="32-true or bf16-mixed, ... (default: the run's)")
    kinds = "" if command == "ask" else ", or a folder or table of many"
    parser.add_argument("image", metavar="IMAGE", help=f"an image file, as Pillow reads them{kinds}")
    if command == "caption":
        add_arguments(parser)
    if command == "ask":
        parser.add_argument("question", metavar="QUESTION", help="one question, in quotation marks")
    options = parser.parse_args(arguments)
    if command == "ask" and not options.question.strip():
        parser.error("the question is empty")
    return options
