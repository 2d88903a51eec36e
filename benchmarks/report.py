"""How long the report of a large sweep takes: 100 cells with curves and results per image, all made up.

    python benchmarks/report.py [--profile]

20 settings on three crossed axes at 5 seeds; each cell trains in two stages, validated 20 times with 24 metrics, and is
tested on 5000 questions on 1000 images; 6 metrics are compared, 4 of them with results per image. Ends with one line
of JSON: seconds to read the folder, to write the page, to keep what it is made of, and to write the page from that; of
the processor, which other work on the machine does not count in; and the MB that are kept.
"""

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from lit_blip2.ablation.folder import Folder, write
from lit_blip2.ablation.kept import keep
from lit_blip2.ablation.report.page import write_report
from lit_blip2.ablation.report.records import read_sweep
from lit_blip2.ablation.schema import Cell, Done, Metrics, Plan, Record, StepRun, setting_name
from lit_blip2.ablation.spec.expect import Expected
from lit_blip2.evaluation.items import FILE, Items, write_items
from lit_blip2.whole_files import write_text

AXES = {"stage1": ["on", "off"], "queries": ["1", "4", "16", "32", "64"], "llm": ["opt", "t5"]}
SEEDS = range(5)
TESTED = ["vqa/mean_over_types", "vqa/accuracy", "caption/precision", "caption/recall"]
VALIDATED = ["loss/lm", "caption/cider"]
MORE = [f"forgetting/part_{number}" for number in range(22)]
IMAGES, QUESTIONS, POINTS = 1000, 5, 20
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def make_sweep(folder: Folder) -> None:
    """Write all that a report reads of such a sweep."""
    rng, steps, cells = np.random.default_rng(0), {}, []
    for seed, labels in product(SEEDS, settings()):
        place = setting_name(labels)
        stage1 = step_run("stage1", f"stage1/stage1={labels['stage1']},seed={seed}", "fit", labels, seed, {})
        stage2 = step_run("stage2", f"stage2/{place},seed={seed}", "fit", labels, seed, {"stage1": stage1.name})
        vqa = step_run("vqa", f"vqa/{place},seed={seed}", "test", labels, seed, {"stage2": stage2.name})
        metrics = dict.fromkeys(TESTED, vqa.name) | dict.fromkeys(VALIDATED, stage2.name)
        names = [stage1.name, stage2.name, vqa.name]
        cells.append(Cell(name=f"{place},seed={seed}", labels=labels, seed=seed, steps=names, metrics=metrics))
        steps |= {each.name: each for each in (stage1, stage2, vqa)}
    ended = {name: write_run(folder, run, rng) for name, run in steps.items()}
    for cell in cells:
        metrics = {metric: value for name in cell.steps for metric, value in ended[name].items()}
        told = {"labels": cell.labels, "seed": cell.seed, "began": BEGAN, "ended": BEGAN + timedelta(minutes=10)}
        keys = {name: name for name in cell.steps}
        write(folder.cell(cell.name), Record(state="done", metrics=metrics, error=None, keys=keys, **told))
    asked = dict(metric=TESTED[0], better=cells[0].labels, than=cells[-1].labels, by=0.05)
    about = {"axes": AXES, "seeds": list(SEEDS), "control": cells[0].labels, "metrics": TESTED + VALIDATED}
    about |= {"expected": [Expected(**asked), Expected(**asked, at=200)], "identity": "made up", "sources": "none"}
    write(folder.plan, Plan(name="large", cells=cells, steps=steps, **about))


def settings() -> Iterator[dict[str, str]]:
    return (dict(zip(AXES, labels)) for labels in product(*AXES.values()))


def step_run(step: str, name: str, command: str, labels: dict[str, str], seed: int, parents: dict[str, str]) -> StepRun:
    """With a config of about as many settings as an experiment has."""
    config = {"seed_everything": seed, "trainer": {f"setting_{n}": n for n in range(60)}, "model": {"labels": labels}}
    config |= {"data": {f"setting_{n}": f"value {n}" for n in range(60)}}
    about = {"folder": f"runs/{name}", "config": config, "max_steps": 1000 if command == "fit" else None}
    return StepRun(name=name, step=step, command=command, key=name, parents=parents, **about)


def write_run(folder: Folder, run: StepRun, rng: np.random.Generator) -> dict[str, float]:
    """What a run leaves that a report reads; its metrics."""
    is_fit = run.command == "fit"
    metrics = {metric: float(value) for metric, value in zip(VALIDATED, rng.random(len(VALIDATED)))}
    if is_fit:
        points = [
            {"step": (at + 1) * 1000 // POINTS} | {metric: rng.random() for metric in [TESTED[0], *VALIDATED, *MORE]}
            for at in range(POINTS)
        ]
        write_text(folder.validations(run.name), "".join(f"{json.dumps(point)}\n" for point in points))
    else:
        ids = np.arange(IMAGES * QUESTIONS)
        strata = np.array(["colour", "count", "existence", "relation", "shape"])[ids % QUESTIONS]
        items = {name: Items(rng.integers(0, 2, len(ids)) * 1.0, ids // QUESTIONS, ids, strata) for name in TESTED}
        write_items(folder.run(run.name) / FILE, items)
        metrics = {name: each.value() for name, each in items.items()}
    write(folder.metrics(run.name), Metrics(metrics))
    spent = {"seconds": 60.0, "peak_memory_gib": 2.0, "attempts": 1, "began": BEGAN, "ended": BEGAN}
    write(folder.done(run.name), Done(key=run.key, steps=run.max_steps, **spent))
    return metrics


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    work(*arguments)
    return round(time.process_time() - start, 2)


def main() -> None:
    """Make the sweep, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="store_true", help="what the page's time goes to, in place of measuring")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, kept = Folder(Path(place) / "large"), Path(place) / "kept"
        make_sweep(folder)
        if given.profile:
            profile = cProfile.Profile()
            profile.runcall(write_report, folder.root)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)
            return
        found = {"seconds_to_read": timed(read_sweep, folder.root), "seconds": timed(write_report, folder.root)}
        found["seconds_to_keep"] = timed(keep, folder.root, kept)
        size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        found |= {"kept_mb": round(size / 1e6, 2), "seconds_from_kept": timed(write_report, kept)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
