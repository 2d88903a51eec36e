"""`python -m lit_blip2 sweep`: run an ablation at a scale."""

import signal

from lit_blip2.ablation.run.storage import lost_storage
from lit_blip2.ablation.run.sweep import run
from lit_blip2.ablation.run.waiting import STORAGE_ERRORS
from lit_blip2.ablation.run.workers import INTERRUPTED
from lit_blip2.arguments import Arguments, refused
from lit_blip2.terminal import say

EXAMPLES = """
examples:
  python -m lit_blip2 sweep --config ablations/objectives.yaml --dry-run        what would run, and what is shared
  python -m lit_blip2 sweep --config ablations/objectives.yaml --workers 2      run it; again: go on where it stopped
  python -m lit_blip2 sweep --config ablations/objectives.yaml --retry-failed   run what failed once more
  python -m lit_blip2 sweep --config ablations/objectives.yaml --scale vitg_opt27 --set stage2.trainer.max_steps=8000
                            the same question with ViT-g and OPT-2.7B, in sweeps/objectives_vitg_opt27
  python -m lit_blip2 sweep --config ablations/objectives.yaml --storage postgresql://user@host/optuna --out /shared/a
                            the same line on every machine: all of them take cells from one queue
  python -m lit_blip2 sweep --config ablations/objectives.yaml --launcher slurm --workers 8 --out /shared/a
  python -m lit_blip2 report sweeps/objectives                                  its report, at any time
"""


def parser() -> Arguments:
    """The options of `sweep`."""
    made = Arguments(
        "sweep",
        "Run an ablation: every cell of a grid, each a chain of ordinary commands; equal steps run once.",
        epilog=EXAMPLES,
    )
    made.add_argument("--config", required=True, help="the ablation, a YAML file in ablations/")
    made.add_argument(
        "--scale",
        default="",
        metavar="NAME",
        help="the models and data that it runs with, ablations/scales/NAME.yaml (default: the ablation's own)",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.KEY=VALUE",
        help="a setting of one step in every cell, over the ablation's and the scale's, such as "
        "stage2.trainer.max_steps=8000, or vqa.with=experiments/zero_shot/okvqa.yaml; may be given again",
    )
    made.add_argument(
        "--workers", type=int, default=1, help="cells that run at the same time (with GPUs: one GPU each)"
    )
    made.add_argument("--out", help="folder that all workers see; default sweeps/NAME")
    made.add_argument(
        "--storage",
        help="the queue: sqlite:///FILE (default, in the folder; one machine), postgresql://USER@HOST/DATABASE, or "
        "journal:FILE on a shared file system (default with SLURM)",
    )
    made.add_argument("--launcher", choices=("local", "slurm"), default="local", help="who starts the workers")
    made.add_argument("--dry-run", action="store_true", help="check every cell, list what would run and what is shared")
    made.add_argument(
        "--anew",
        action="store_true",
        help="run every step, also where another sweep in the same folder has run it, and every cell, also where its "
        "record is kept in results/NAME beside the ablation",
    )
    made.add_argument("--retry-failed", action="store_true", help="put a grid's failed cells back into the queue")
    return made


def main(arguments: list[str]) -> int:
    """Parse and run; 0 if every cell is done, 1 if some failed, 2 for what cannot be begun, 130 if interrupted."""
    options = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, until there are workers to be ended
    try:
        if options.workers < 1:
            raise ValueError(f"--workers {options.workers} must be at least 1")
        return run(options)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return refused(error)
    except STORAGE_ERRORS as error:
        return refused(error, lost_storage(error))
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here", error=True)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
