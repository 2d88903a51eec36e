"""The command line. Only the command that is asked for is imported, so that `--help` and `params` stay light."""

import os
import signal
import sys
from importlib import import_module

from lit_blip2.allocator import keep_freed_memory
from lit_blip2.arguments import refused
from lit_blip2.complaints import hint
from lit_blip2.reads import record_if_asked
from lit_blip2.refusals import SHOW_TRACEBACKS, refusal, tracebacks_shown
from lit_blip2.roll_call import answered
from lit_blip2.stopping import STATUS
from lit_blip2.terminal import PROGRAM, guard, say

DEBUG = "--debug"

record_if_asked()  # processes that are spawned from this one import this module too

TRAINING = {
    "fit": "train an experiment: fit --config experiments/mini_stage1.yaml",
    "validate": "evaluate a checkpoint on the validation sets: validate --config FILE --ckpt_path RUN",
    "test": "evaluate a checkpoint on the test sets: test --config FILE --ckpt_path RUN",
    "predict": "write a checkpoint's captions and answers: predict --config FILE --ckpt_path RUN",
}
OTHERS = {
    "sweep": "run an ablation, a grid of experiments: sweep --config ablations/objectives.yaml --workers 2",
    "report": "write tables and plots of a sweep, even while it runs: report DIR; of many: report --summary DIR",
    "compare": "compare the test metrics of two runs: compare RUN_A RUN_B",
    "params": "count trainable and frozen parameters, without weights: params --config FILE",
    "replay": "find where NaN arises in a saved batch: replay runs/NAME/version_0/not_finite/step_12.pt",
    "data": "prepare data: data make-mini|make-models|features|index|check|pack --help",
    "ask": 'answer a question about an image: ask --checkpoint RUN IMAGE "what shape is red ?"',
    "import": "convert a checkpoint of LAVIS or Hugging Face to a run: import --from lavis|hf PATH --out RUN",
    "export": "convert a run for LAVIS, transformers or timm: export --checkpoint RUN --to lavis|hf|timm --out PATH",
    "caption": "describe an image, or many: caption --checkpoint RUN IMAGE|FOLDER|CSV [--out FILE]",
}
# Commands that share a file of commands/, which is told which of them it is; every other has one of its own name.
SHARED = {"ask": "ask", "caption": "ask", "import": "convert", "export": "convert"}


def usage() -> str:
    """All commands, one line each."""
    lines = [f"  {name:9} {text}" for name, text in (TRAINING | OTHERS).items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ...",
            "",
            "BLIP-2 in two stages: train, evaluate, ablate. An experiment is one YAML file in experiments/; any of its",
            "keys can be set behind it, such as --model.net.itm=null or --trainer.max_steps=100.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help explains one command.",
            "A mistake ends in one line and exit status 2; --debug behind the command shows the traceback.",
        ]
    )


def main() -> int:
    """Run the command. Returns the exit status: 2 after a mistake, with a line on standard error; 1 if training stops
    at NaN or infinity; 130 after Ctrl-C."""
    if DEBUG in sys.argv:
        os.environ[SHOW_TRACEBACKS] = "true"  # in the processes that this one starts, too
        sys.argv = [each for each in sys.argv if each != DEBUG]
    guard(places=tracebacks_shown())
    if not sys.flags.safe_path and os.getcwd() not in sys.path:  # as `python -m` has it, for `lit-blip2`
        sys.path.insert(0, os.getcwd())
    arguments = sys.argv[1:]
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command not in TRAINING | OTHERS:
        way_out = f"; {PROGRAM} --help lists all"
        say(f"error: unknown command {command!r}{hint(command, TRAINING | OTHERS) or way_out}", error=True)
        return 2
    try:
        return run(command, rest)
    except KeyboardInterrupt:
        say(f"{command}: stopped", error=True)
        return STATUS + signal.SIGINT
    except Exception as error:
        if (said := refusal(error)) is None:
            raise
        status = refused(error, said)
        return 1 if isinstance(error, FloatingPointError) else status


def run(command: str, rest: list[str]) -> int:
    """Import a command and run it; its exit status."""
    if command in TRAINING:
        keep_freed_memory()
        with answered():
            import_module("lit_blip2.cli").main()  # reads the command line itself, as LightningCLI wants it
        return 0
    if command in SHARED:
        return import_module(f"lit_blip2.commands.{SHARED[command]}").main(command, rest) or 0
    return import_module(f"lit_blip2.commands.{command}").main(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
