"""Whether a long run grows: its memory, open files and threads at each validation, pictures on.

    OMP_NUM_THREADS=1 python benchmarks/long_run.py                    # 20,000 steps
    OMP_NUM_THREADS=1 python benchmarks/long_run.py --steps 1000 --validations 40

Trains a tiny joint network, all objectives and evaluations in one, on a mini-world of a few scenes, in a process of its
own. Ends with one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import lightning as L

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from lit_blip2.commands.mini import make_mini

WARM_UP = 5  # validations that are not counted: caches fill
TINY = [
    "--model.net.qformer.hidden=32", "--model.net.qformer.layers=2", "--model.net.qformer.heads=2",
    "--model.net.qformer.intermediate=32", "--model.net.qformer.num_queries=8", "--model.net.itc.projection=16",
    "--model.rerank=3", "--model.caption_max_new_tokens=12", "--model.optimization.warmup_steps=10",
    "--data.batch_size=4", "--data.eval_batch_size=4",
]  # fmt: skip


class Sizes(L.Callback):
    """Appends a line of JSON to a file when a validation begins: what the process holds after its training steps, and
    of all validations and pictures before."""

    def __init__(self, file: str):
        self.file = Path(file)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        own = Path("/proc/self")
        files, threads = (len(list((own / kind).iterdir())) for kind in ("fd", "task"))
        line = json.dumps({"step": trainer.global_step, "mb": anonymous_mb(), "files": files, "threads": threads})
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def anonymous_mb() -> float:
    """MB that this process has to itself. Pages of files, such as torch's libraries, come and go with the system."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def train(
    folder: Path, data: Path, steps: int, validations: int, arguments: Sequence[str] = ()
) -> list[dict[str, float]]:
    """Run `fit` in a process of its own; what it held at each validation."""
    file = folder / "sizes.jsonl"
    every = steps // validations
    sizes = f"{{class_path: benchmarks.long_run.Sizes, init_args: {{file: {file}}}}}"
    command = [
        sys.executable, "-m", "lit_blip2", "fit", "--config", "experiments/mini_joint.yaml", *TINY,
        f"--data.root={data}", f"--trainer.logger.save_dir={folder}/runs", f"--trainer.max_steps={every * validations}",
        f"--trainer.val_check_interval={every}", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", f"--trainer.callbacks+={sizes}", *arguments,
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def figures(found: list[dict[str, float]], warm_up: int = WARM_UP) -> dict[str, float]:
    """Of what was held after the warm-up: `growth` is how far memory rose above its first size, as a share of it."""
    counted = found[warm_up:]
    sizes = [each["mb"] for each in counted]
    told = {"steps": found[-1]["step"], "validations": len(found)}
    told |= {"mb_first": round(sizes[0]), "mb_greatest": round(max(sizes)), "mb_last": round(sizes[-1])}
    told["growth"] = round(max(sizes) / sizes[0] - 1, 4)
    for name in ("files", "threads"):
        numbers = [each[name] for each in counted]
        told |= {f"{name}_least": min(numbers), f"{name}_greatest": max(numbers)}
    return told


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--validations", type=int, default=100)
    parser.add_argument("--out", type=Path, help="folder for the run, kept (default: a temporary one)")
    given, others = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as own:
        folder = given.out or Path(own)
        make_mini(Path(own) / "mini", train=24, val=6, test=6, workers=1)
        found = train(folder, Path(own) / "mini", given.steps, given.validations, others)
    print(json.dumps(figures(found)))


if __name__ == "__main__":
    main()
