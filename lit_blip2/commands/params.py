"""`params`: count the trainable and frozen parameters of an experiment, on the meta device and without weights."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lit_blip2.arguments import Arguments, refused
from lit_blip2.complaints import no_file
from lit_blip2.config import read
from lit_blip2.network import count, sketch
from lit_blip2.runs import CONFIG
from lit_blip2.trust import add_allow

if TYPE_CHECKING:
    from rich.table import Table

HELP = """Count the trainable and frozen parameters of an experiment. No weights are needed.

  python -m lit_blip2 params --config experiments/vitg_opt27.yaml          # part by part
  python -m lit_blip2 params --config experiments/vitg_*.yaml              # a Markdown table, the paper beside it
  python -m lit_blip2 params --memory --config experiments/vitg_opt27.yaml --devices 16      # GB on each GPU"""
# Trainable parameters in the paper's tables 1 and 2, of the experiments that are its own.
PAPER = {
    "vitg_stage1": "188M",
    "vitg_opt27": "107M",
    "vitg_opt67": "108M",
    "vitg_flant5xl": "107M",
    "vitg_flant5xxl": "108M",
    "vitl_opt27": "104M",
    "vitl_flant5xl": "103M",
}


def main(arguments: list[str]) -> int:
    """Parse the command line and print: the parts of one experiment, or a line for each of several."""
    from lit_blip2.console import Console

    parser = Arguments("params", HELP)
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        required=True,
        metavar="FILE",
        help="experiments (YAML): one gives a table of its parts, several give a line each",
    )
    parser.add_argument(
        "--memory", action="store_true", help="estimate the memory of a training step in GB on each GPU"
    )
    parser.add_argument(
        "--devices", type=int, default=1, help="with --memory: number of GPUs that share the global batch (default: 1)"
    )
    parser.add_argument(
        "--strategy",
        default="ddp",
        help="with --memory: ddp, deepspeed_stage_1, deepspeed_stage_2 or fsdp (default: ddp)",
    )
    parser.add_argument(
        "--tokens", type=int, default=32, help="with --memory: length of a caption in tokens (default: 32)"
    )
    add_allow(parser)
    options = parser.parse_args(arguments)
    if not options.memory and (options.devices, options.strategy, options.tokens) != (1, "ddp", 32):
        parser.error("--devices, --strategy and --tokens say how a step runs: add --memory, or leave them out")
    files, counted = options.config, {}
    for file in files:
        if not file.is_file():
            parser.error(no_file(file))
        try:
            experiment = read(file)
            if file.name == CONFIG:  # a run's, which may be anybody's
                experiment = replace(experiment, allow=options.allow)
            net = sketch(experiment)
            if options.memory:
                from lit_blip2.commands.memory import table

                print(f"{file}: measuring on the CPU what a step keeps ...", file=sys.stderr)
                Console().print(table(net, experiment, options.devices, options.strategy, options.tokens))
                continue
            counted[file] = count(net)
        except ValueError as error:
            return refused(error)
        except FileNotFoundError as error:
            return refused(error, f"{file}: {error}")
    if len(counted) > 1:
        print(comparison({file.stem: rows for file, rows in counted.items()}))
    elif counted:
        Console().print(parts_table(*counted.popitem()))
    return 0


def parts_table(file: Path, rows: list[tuple[str, int, int]]) -> "Table":
    """A table of the trainable and frozen parameters of each part of an experiment."""
    from rich.table import Table

    rows = [*rows, ("total", sum(row[1] for row in rows), sum(row[2] for row in rows))]
    table = Table(title=str(file))
    table.add_column("part")
    table.add_column("trainable", justify="right")
    table.add_column("frozen", justify="right")
    for name, trainable, frozen in rows:
        table.add_row(name, f"{trainable:,}", f"{frozen:,}", end_section=name == rows[-2][0])
    return table


def comparison(counted: dict[str, list[tuple[str, int, int]]]) -> str:
    """A Markdown table of experiments, with the trainable parameters that the paper reports."""
    lines = ["| experiment | trainable | the paper | frozen | all |", "|---|--:|--:|--:|--:|"]
    for name, rows in counted.items():
        trainable, frozen = (sum(row[place] for row in rows) for place in (1, 2))
        lines.append(f"| `{name}` | {trainable:,} | {PAPER.get(name, '')} | {frozen:,} | {trainable + frozen:,} |")
    return "\n".join(lines)
