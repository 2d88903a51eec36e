"""`replay`: run the batch of a non-finite training step again, and find where the first NaN or infinity arises."""

import warnings
from math import isfinite
from pathlib import Path

from lit_blip2.arguments import Arguments
from lit_blip2.lit.callbacks.non_finite import faulty_rows
from lit_blip2.lit.kept_batch import read_kept
from lit_blip2.lit.replay import Replayed, module_of, replay
from lit_blip2.terminal import say
from lit_blip2.trust import add_allow

HELP = """Run the batch of a training step again whose loss or gradient was NaN or infinite, and say where the first
such number arises.

  python -m lit_blip2 replay runs/mini_stage1/version_0/not_finite/step_12.pt

It uses the weights of the run's newest checkpoint, which is older than the step. If all numbers are finite here, the
cause lies in the steps between. The batch is that of one process, without the ITC negatives of other processes."""


def main(arguments: list[str]) -> int:
    """Parse, run, print. The exit status is 0 whatever is found, if the batch can be run."""
    import torch

    parser = Arguments("replay", HELP)
    parser.add_argument("file", metavar="FILE", type=Path, help="a file in the folder not_finite of a run")
    add_allow(parser)
    options = parser.parse_args(arguments)
    kept = read_kept(options.file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, experiment, weights = module_of(options.file, options.allow)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    say(f"step {kept['step']}, rank {kept['rank']} of {kept['ranks']}; weights: {weights}")
    for each in kept["found"]:
        say(
            f"in the run: {each['name']} was {each['value']}"
            + (f" on rank {each['rank']}" if kept["ranks"] > 1 else "")
        )
    for batch in kept["batches"]:
        rows = batch["row"].tolist()
        say(f"\nmicro-batch {batch['micro_batch'][0] + 1} of {batch['micro_batch'][1]}, rows {rows[0]} to {rows[-1]}")
        for row, image in faulty_rows(batch):
            say(f"row {row} (image {image}) comes with numbers that are not finite")
        for name, found in replay(module, experiment, kept, batch).items():
            say(f"{name:8} loss {found.loss:<12.6g} gradient norm {found.norm:<12.6g} {where(name, found)}")
    return 0


def where(name: str, found: Replayed) -> str:
    """Where the first non-finite number of an objective arises, in words."""
    if not isfinite(found.loss):
        return f"first not finite: the output of {found.origin.forward or f'no module, so {name} itself'}"
    if not isfinite(found.norm):
        behind = found.origin.backward
        return f"first not finite: the gradient of {f'the output of {behind}' if behind else 'weights alone'}"
    return "finite"
