"""BLIP-2's whole recipe on the mini-world, as a person would type it: world, stage 1, stage 2, each tested.

    python -m lit_blip2.mini.demo [--runs runs] [--data data/mini]

Every step is an ordinary command, shown before it runs. Ends with a table of test metrics, also in RUNS/demo.md.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table

from lit_blip2.console import Console

ROWS = [
    ("retrieval, image to text R@1, ITC", "mini_stage1", "retrieval/itc_txt_r1"),
    ("retrieval, text to image R@1, ITC", "mini_stage1", "retrieval/itc_img_r1"),
    ("retrieval, image to text R@1, re-ranked by ITM", "mini_stage1", "retrieval/itm_txt_r1"),
    ("retrieval, text to image R@1, re-ranked by ITM", "mini_stage1", "retrieval/itm_img_r1"),
    ("retrieval, image to text R@1, sum", "mini_stage1", "retrieval/sum_txt_r1"),
    ("retrieval, text to image R@1, sum", "mini_stage1", "retrieval/sum_img_r1"),
    ("binding, ITC (chance .5)", "mini_stage1", "binding/itc_accuracy"),
    ("binding, ITM (chance .5)", "mini_stage1", "binding/itm_accuracy"),
    ("zero-shot VQA, mean over types", "mini_opt", "vqa/mean_over_types"),
    ("  without the image", "mini_opt", "vqa/no_image"),
    ("  language model reading the gold description", "mini_opt", "llm/text_qa"),
    ("zero-shot VQA, all questions", "mini_opt", "vqa/accuracy"),
    ("captions, CIDEr", "mini_opt", "caption/cider"),
    ("captions, BLEU-4", "mini_opt", "caption/bleu4"),
    ("captions, objects right (precision)", "mini_opt", "caption/precision"),
    ("captions, objects found (recall)", "mini_opt", "caption/recall"),
]


def commands(runs: Path, data: Path, extra: list[str]) -> list[tuple[str, list[str]]]:
    """(what, arguments of `python -m lit_blip2`) of each step."""
    steps = [("the mini-world", ["data", "make-mini", "--out", str(data)])]
    for experiment, start in (("mini_stage1", []), ("mini_opt", [f"--model.init_from={runs / 'mini_stage1'}"])):
        common = ["--config", f"experiments/{experiment}.yaml", f"--data.root={data}"]
        common += [f"--trainer.logger.save_dir={runs}", *start, *extra]
        steps.append((f"{experiment}: training", ["fit", *common]))
        steps.append((f"{experiment}: test", ["test", *common, f"--ckpt_path={runs / experiment}"]))
    return steps


def newest(runs: Path, experiment: str) -> dict[str, float]:
    """metrics.json of an experiment's newest run."""
    files = sorted((runs / experiment).glob("version_*/metrics.json"), key=lambda file: file.stat().st_mtime)
    return json.loads(files[-1].read_text())


def table(runs: Path) -> list[tuple[str, str]]:
    """(what, metric) of each row; a metric that the run does not have is a dash."""
    metrics = {experiment: newest(runs, experiment) for experiment in ("mini_stage1", "mini_opt")}
    return [
        (title, f"{metrics[experiment][name]:.3f}" if name in metrics[experiment] else "-")
        for title, experiment, name in ROWS
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs, for TensorBoard")
    parser.add_argument("--data", type=Path, default=Path("data/mini"), help="folder of the mini-world")
    args, extra = parser.parse_known_args()
    console, seconds = Console(), []
    for what, command in commands(args.runs, args.data, extra):
        console.rule(what)
        console.print("python -m lit_blip2 " + " ".join(command), style="dim", soft_wrap=True)
        began = time.monotonic()
        if code := subprocess.run([sys.executable, "-m", "lit_blip2", *command]).returncode:
            console.print(f"{what} ended with exit code {code}", style="red")
            return code
        seconds.append((what, f"{time.monotonic() - began:.0f} s"))
    metrics = table(args.runs)
    shown = Table(title="BLIP-2 on the mini-world, test scenes")
    shown.add_column("metric")
    shown.add_column("value", justify="right")
    for row in metrics:
        shown.add_row(*row)
    console.print(shown)
    for row in seconds:
        console.print(f"{row[0]:28} {row[1]:>6}", highlight=False)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # Linux counts in KiB
    console.print(f"{'memory of the largest process':28} {largest:.2f} GiB", highlight=False)
    console.print(f"tensorboard --logdir {args.runs} shows the curves and pictures.")
    lines = ["| metric | value |", "|---|---|", *(f"| {title.strip()} | {value} |" for title, value in metrics)]
    (args.runs / "demo.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
