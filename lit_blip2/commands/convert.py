"""`import` and `export`: convert checkpoints from and to LAVIS, Hugging Face and timm."""

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

from rich.table import Table
from safetensors import SafetensorError

from lit_blip2.arguments import Arguments, refused
from lit_blip2.console import Console
from lit_blip2.terminal import one_line, say
from lit_blip2.trust import add_allow

IMPORT = """Convert a BLIP-2 checkpoint of LAVIS or Hugging Face to a run of this suite:

  python -m lit_blip2 import --from lavis blip2_pretrained.pth --out runs/lavis_stage1
  python -m lit_blip2 import --from hf blip2-opt-2.7b/ --out runs/hf_opt27

A table shows where every weight goes. A weight that has no place stops the import with an error that names it."""
EXPORT = """Convert a run to a LAVIS checkpoint, to a folder for Hugging Face's from_pretrained, or its image encoder
to a folder for timm:

  python -m lit_blip2 export --checkpoint runs/vitg_stage1 --to lavis --out stage1.pth
  python -m lit_blip2 export --checkpoint runs/vitg_opt27 --to hf --out blip2-opt-2.7b
  python -m lit_blip2 export --checkpoint runs/vitg_opt27_caption --to timm --out encoder

To train another run with an exported encoder, add --model.net.vision.weights=encoder/model.safetensors."""


def main(command: str, arguments: list[str]) -> int:
    """Parse and run. Returns the exit status: 0; 2 after an error, whose reason is printed."""
    try:
        (import_run if command == "import" else export_run)(arguments)
    except KeyError as error:
        return refused(error, f"{error} is missing in what is to be read")
    except (ValueError, OSError, TypeError) as error:
        return refused(error)
    except (ImportError, RuntimeError, SafetensorError, UnpicklingError) as error:
        # Errors of the libraries that read a run's files; their messages may be long.
        return refused(error, f"{type(error).__name__}: {one_line(error, 500)}")
    return 0


def import_run(arguments: list[str]) -> None:
    """Run `import`. Raises ValueError or OSError for a checkpoint that cannot be converted."""
    parser = Arguments("import", IMPORT)
    parser.add_argument(
        "path", type=Path, help="the checkpoint: a .pth file of LAVIS, or a folder of Hugging Face's save_pretrained"
    )
    parser.add_argument(
        "--from",
        dest="side",
        choices=("lavis", "hf"),
        required=True,
        help="what wrote the checkpoint: LAVIS, or Hugging Face's transformers (hf)",
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder to write; must not exist")
    parser.add_argument(
        "--config",
        type=Path,
        help="experiment (YAML) that gives the run its data and trainer settings, and for LAVIS the sizes of the "
        "network (default: the shipped experiment that fits the checkpoint)",
    )
    given = parser.parse_args(arguments)
    check_free(given.out)
    from lit_blip2.exchange import hugging_face, lavis
    from lit_blip2.exchange.files import read_weights
    from lit_blip2.exchange.run import write_run

    if given.side == "lavis":
        state = read_weights(given.path)
        experiment = given.config or lavis.experiment_of(state)
        foreign, tokenizer = lavis.with_side(lavis.read(state, given.path), given.path), None
    else:
        foreign, tokenizer = hugging_face.read(given.path), given.path
        experiment = given.config or hugging_face.experiment_of(given.path)
    write_run(foreign, experiment, given.out, tokenizer)
    show(foreign.fate | {f"({name})": f"derived: {why}" for name, why in foreign.derived.items()})
    say(f"The run is in {given.out}; its configuration in {given.out}/version_0/config.yaml.")


def export_run(arguments: list[str]) -> None:
    """Run `export`. Raises ValueError or OSError for a run that cannot be converted."""
    parser = Arguments("export", EXPORT)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="checkpoint file, or run folder, whose newest checkpoint is used"
    )
    parser.add_argument(
        "--to",
        dest="side",
        choices=("lavis", "hf", "timm"),
        required=True,
        help="format to write: LAVIS, Hugging Face's transformers (hf), or the image encoder alone for timm",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="file or folder to write, must not exist: a .pth file for LAVIS, a folder for hf and timm",
    )
    add_allow(parser)
    given = parser.parse_args(arguments)
    check_free(given.out)
    from lit_blip2.exchange.export import EXPORTS

    show(EXPORTS[given.side](given.checkpoint, given.out, given.allow))
    say(f"Written: {given.out}")


def check_free(out: Path) -> None:
    """Raises FileExistsError if the output exists."""
    if out.exists():
        raise FileExistsError(f"{out} exists: remove it, or give another --out")


def show(fate: Mapping[str, str]) -> None:
    """Print where the weights go, one line for all weights that differ only in the number of their layer."""
    table = Table("weight", "number", "what became of it")
    for (key, what), count in Counter((_starred(key), _starred(what)) for key, what in fate.items()).items():
        table.add_row(key, str(count), what)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _starred(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)
