"""`sweep`: run an ablation, a grid of experiments."""

import signal

from lit_blip2.ablation.run.storage import lost_storage
from lit_blip2.ablation.run.sweep import run
from lit_blip2.ablation.run.waiting import STORAGE_ERRORS
from lit_blip2.ablation.run.workers import INTERRUPTED
from lit_blip2.arguments import Arguments, refused
from lit_blip2.terminal import say

GOES_ON = "interrupted; the same command goes on from here"

EXAMPLES = """
examples:
  python -m lit_blip2 sweep --config ablations/objectives.yaml --dry-run        list what would run
  python -m lit_blip2 sweep --config ablations/objectives.yaml --workers 2      run it, or continue it
  python -m lit_blip2 sweep --config ablations/objectives.yaml --retry-failed   run the failed cells again
  python -m lit_blip2 sweep --config ablations/objectives.yaml --scale vitg_opt27 --set stage2.trainer.max_steps=8000
                            run it with ViT-g and OPT-2.7B, in sweeps/objectives_vitg_opt27
  python -m lit_blip2 sweep --config ablations/objectives.yaml --storage postgresql://user@host/optuna --out /shared/a
                            on several machines: start this line on each, all take cells from one queue
  python -m lit_blip2 sweep --config ablations/objectives.yaml --launcher slurm --workers 8 --out /shared/a
  python -m lit_blip2 report sweeps/objectives                                  write its report, at any time
"""


def parser() -> Arguments:
    """The options of `sweep`."""
    made = Arguments(
        "sweep",
        "Run an ablation: a grid of cells (settings and seeds). Each cell is a chain of fit and test commands; steps "
        "that\nseveral cells share run once. The same command continues an interrupted sweep.",
        epilog=EXAMPLES,
    )
    made.add_argument("--config", required=True, help="the ablation: a YAML file such as ablations/objectives.yaml")
    made.add_argument(
        "--scale",
        default="",
        metavar="NAME",
        help="models and data to run with, from ablations/scales/NAME.yaml (default: those in the ablation's file)",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.KEY=VALUE",
        help="set a value for one step of every cell, over the ablation and the scale, such as "
        "stage2.trainer.max_steps=8000 or vqa.with=experiments/zero_shot/okvqa.yaml; may be given again",
    )
    made.add_argument(
        "--workers",
        type=int,
        default=1,
        help="number of cells that run at the same time, each on one GPU if there are any (default: 1)",
    )
    made.add_argument(
        "--out", help="folder for runs, records and report; all workers must see it (default: sweeps/NAME)"
    )
    made.add_argument(
        "--storage",
        help="the queue of cells: sqlite:///FILE for one machine (default, in the folder --out), "
        "postgresql://USER@HOST/DATABASE, or journal:FILE on a shared file system (default with SLURM)",
    )
    made.add_argument(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="local: workers are processes on this machine; slurm: workers are SLURM jobs (default: local)",
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="run nothing: check every cell, and list what would run, what is shared and what is missing",
    )
    made.add_argument(
        "--anew",
        action="store_true",
        help="run everything again: steps that another sweep in the same folder has run, and cells whose records are "
        "kept in results/NAME beside the ablation",
    )
    made.add_argument("--retry-failed", action="store_true", help="run the failed cells of this sweep again")
    return made


def main(arguments: list[str]) -> int:
    """Parse and run. Returns the exit status: 0 if every cell is done, 1 if some failed, 2 if the sweep cannot start
    (a dry run tells that too), 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, until there are workers to be ended
    try:
        if options.workers < 1:
            raise ValueError(f"--workers {options.workers} must be at least 1")
        if (status := run(options)) == INTERRUPTED:
            say(GOES_ON, error=True)
        return status
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return refused(error)
    except STORAGE_ERRORS as error:
        return refused(error, lost_storage(error))
    except KeyboardInterrupt:
        say(GOES_ON, error=True)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
