"""Sweeps written by hand: what the runner would leave in a folder, with known metrics."""

import json
from pathlib import Path

import pytest

from lit_blip2.ablation.folder import Folder
from lit_blip2.ablation.run.tensorboard import write_cell
from lit_blip2.ablation.schema import Cell
from lit_blip2.ablation.spec.grid import Grid

BEGAN_AND_ENDED = {"began": "2026-01-01T00:00:00", "ended": "2026-01-01T00:01:00"}
STAGE1 = {"seed_everything": 0, "model": {"net": {"itc": {"projection": 8}, "itg": {}}}, "data": {"root": "data/mini"}}


class SweepFolder:
    """Builds plan.json, cells/ and the steps' files; `plan` may be edited before `write`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = {
            "name": "objectives",
            "question": "Which of *ITC* and ITG does stage 2 need?",
            "expect": "Without ITC, VQA falls by .05.",
            "command": "python -m lit_blip2 sweep --config ablations/objectives.yaml --out runs/objectives",
            "axes": {},
            "seeds": [],
            "metrics": [],
            "control": None,
            "identity": "of this grid",
            "sources": "of this package",
            "commit": "0123abcd",
            "dirty": False,
            "versions": {"python": "3.11.4", "torch": "2.11.0"},
            "machine": "2 cores",
            "workers": 2,
            "cells": [],
            "steps": {},
        }

    def step(self, name: str, command: str = "fit", config: dict | None = None, **done) -> None:
        """A step; with any number of done.json it has ended."""
        step, folder = name.split("/")[0], f"runs/{name}"
        run = {"name": name, "step": step, "command": command, "key": name, "folder": folder, "parents": {}}
        self.plan["steps"][name] = run | {"config": config or {}, "max_steps": None}
        if done:
            known = {"key": name, "seconds": 1.0, "steps": None, "peak_memory_gib": 1.0, "attempts": 1}
            self.put(f"{folder}/done.json", json.dumps(known | BEGAN_AND_ENDED | done))

    def cell(self, labels: dict, seed: int, steps: list[str], metrics: dict) -> str:
        name = ",".join([*(f"{axis}={value}" for axis, value in labels.items()), f"seed={seed}"])
        self.plan["cells"].append(dict(name=name, labels=labels, seed=seed, steps=steps, metrics=metrics))
        return name

    def ended(self, name: str, state: str = "done", error: dict | None = None, extra: dict | None = None, **metrics):
        cell = next((cell for cell in self.plan["cells"] if cell["name"] == name), {"labels": {}, "seed": 0})
        record = {"state": state, "metrics": metrics, "error": error, "labels": cell["labels"], "seed": cell["seed"]}
        self.put(f"cells/{name}.json", json.dumps(record | BEGAN_AND_ENDED | (extra or {})))

    def validated(self, step: str, records: list[dict]) -> None:
        self.put(f"runs/{step}/validation.jsonl", "".join(json.dumps(record) + "\n" for record in records))

    def put(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def write(self) -> Path:
        self.put("plan.json", json.dumps(self.plan))
        return self.folder


@pytest.fixture
def new_sweep(tmp_path):
    return SweepFolder(tmp_path / "sweep")


VQA = {("on", "on"): [0.60, 0.62, 0.58], ("off", "on"): [0.50, 0.53, 0.47], ("on", "off"): [0.61, 0.61, 0.58]}


@pytest.fixture
def sweep(new_sweep):
    """Axes itc x bridge at three seeds, control (on, on). Stage 1 depends on itc and seed, so two bridges share it.

    done: the VQA values above; bridge off, itc off: failed at seed 0, waiting at 1 and 2. Retrieval by ITC is n/a
    without ITC, and "not finite" for itc=on,bridge=off at seed 2. The time of a stage 1 is 100 s, of a stage 2 30 s.
    """
    plan = new_sweep.plan
    plan.update(
        axes={"itc": ["on", "off"], "bridge": ["on", "off"]}, seeds=[0, 1, 2], control={"itc": "on", "bridge": "on"}
    )
    plan["metrics"] = ["vqa/mean_over_types", "retrieval/itc_txt_r1", "loss/lm"]
    for itc in ("on", "off"):
        for seed in (0, 1, 2):
            config = STAGE1 | {"seed_everything": seed, "trainer": {"logger": {"name": f"{itc}{seed}"}}}
            config = config | {"model": {"net": {"itc": {"projection": 8} if itc == "on" else None, "itg": {}}}}
            new_sweep.step(
                f"stage1/itc={itc},seed={seed}", config=config, seconds=100.0, steps=680, peak_memory_gib=1.5
            )
    for itc, bridge in (("on", "on"), ("off", "on"), ("on", "off"), ("off", "off")):
        for seed in (0, 1, 2):
            add_cell(new_sweep, itc, bridge, seed)
    return new_sweep


def add_cell(sweep: SweepFolder, itc: str, bridge: str, seed: int) -> None:
    labels = {"itc": itc, "bridge": bridge}
    stage1, stage2 = f"stage1/itc={itc},seed={seed}", f"stage2/itc={itc},bridge={bridge},seed={seed}"
    ended = (itc, bridge) in VQA
    config = {"model": {"init_from": f"/shared/sweep/runs/{stage1}/last.ckpt", "bridge": bridge == "on"}}
    sweep.step(stage2, config=config, **(dict(seconds=30.0, steps=780, peak_memory_gib=2.5) if ended else {}))
    metrics = {
        "vqa/mean_over_types": stage2,
        "loss/lm": stage2,
        "retrieval/itc_txt_r1": stage1 if itc == "on" else None,
    }
    name = sweep.cell(labels, seed, [stage1, stage2], metrics)
    if not ended:
        if seed == 0:
            message = "loss is nan at step 3 | of 780"
            error = {"step": stage2, "message": message, "log_tail": ["step 2 loss 9.1\n", "<b>step 3 loss nan</b>\n"]}
            sweep.ended(name, "failed", error=error)
        return
    vqa = VQA[itc, bridge][seed]
    values = {"vqa/mean_over_types": vqa, "loss/lm": 2.0 - vqa}
    if itc == "on":
        values["retrieval/itc_txt_r1"] = None if (bridge, seed) == ("off", 2) else 0.9 + seed / 100
    sweep.ended(name, **values)
    curve = [{"step": s, "loss/lm": 3 - s / 780 - vqa, "vqa/mean_over_types": vqa * s / 780} for s in (260, 520, 780)]
    sweep.validated(stage2, curve)


class TensorBoardSweep:
    """A sweep of itc x itm with a run in TensorBoard for each cell. stage1 writes retrieval's metrics, stage2 VQA's."""

    vqa, retrieval = METRICS = ("vqa/accuracy", "retrieval/itc_txt_r1")

    def __init__(self, folder: Path) -> None:
        self.files, self.folder = SweepFolder(folder), Folder(folder)
        axes = {"itc": ["on", "off"], "itm": ["on", "off"]}
        control = {"itc": "on", "itm": "on"}
        steps = {name: {"fit": f"experiments/{name}.yaml"} for name in ("stage1", "stage2")}
        labels = {axis: {label: {} for label in of_axis} for axis, of_axis in axes.items()}
        self.grid = Grid(name="objectives", steps=steps, axes=labels, metrics=list(self.METRICS), seeds=[0])
        self.files.plan.update(axes=axes, control=control, seeds=[0], metrics=list(self.METRICS))

    def run(self, cell: str) -> Path:
        return self.folder.root / "tensorboard" / cell

    def cell(self, itc: str, itm: str, curves: dict[str, list[dict]], state: str = "done", **ended) -> str:
        """An ended cell with the validations of its steps; ended: metrics, error. Its name."""
        labels = {"itc": itc, "itm": itm}
        runs = {kind: f"{kind}/itc={itc},itm={itm},seed=0" for kind in ("stage1", "stage2")}
        metrics = {self.vqa: runs["stage2"], self.retrieval: runs["stage1"] if itc == "on" else None}
        for kind, run in runs.items():
            done = state == "done" or kind == "stage1"
            self.files.step(run, **(dict(seconds=10.0, steps=300) if done else {}))
            if kind in curves:
                self.files.validated(run, curves[kind])
        name = self.files.cell(labels, 0, list(runs.values()), metrics)
        values = ended.get("metrics", {})
        self.files.ended(name, state, ended.get("error"), **values)
        cell = Cell(name=name, labels=labels, seed=0, steps=list(runs.values()), metrics=metrics)
        write_cell(self.folder, self.grid, cell, state, values)
        return name

    def three_cells(self) -> Path:
        """The control; one that cannot have retrieval's metric; one that failed in its second step."""
        losses = [{"step": step, "loss/total": 300 / step} for step in (100, 200, 300)]
        vqa = [losses[i] | {self.vqa: value} for i, value in enumerate((0.25, 0.375, 0.625))]
        retrieval = [losses[i] | {self.retrieval: value} for i, value in enumerate((0.5, 0.75, 0.875))]
        self.cell("on", "on", {"stage1": retrieval, "stage2": vqa}, metrics={self.vqa: 0.625, self.retrieval: 0.875})
        lower = [point | {self.vqa: point[self.vqa] - 0.125} for point in vqa]
        self.cell("off", "on", {"stage1": losses, "stage2": lower}, metrics={self.vqa: 0.5})
        failed = "itc=on,itm=off,seed=0"
        error = {"step": f"stage2/{failed}", "message": "fit ended: exit code 1", "log_tail": ["loss is nan"]}
        falling = [point | {self.retrieval: 1.0 - point[self.retrieval]} for point in retrieval]
        self.cell("on", "off", {"stage1": falling, "stage2": vqa[:2]}, "failed", error=error)
        return self.files.write()


@pytest.fixture(scope="session")
def new_tensorboard_sweep():
    """TensorBoardSweep, for tests of any scope."""
    return TensorBoardSweep
