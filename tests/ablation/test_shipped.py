"""Every shipped ablation resolves: each label of each axis is accepted, and some cell can write each metric.

A sweep resolves every cell before it starts; here one axis is changed at a time.
"""

import json
from pathlib import Path

import pytest

from lit_blip2.ablation.run import plan
from lit_blip2.ablation.spec.grid import Grid, read_grid
from lit_blip2.mini.grammar import QUESTION_TYPES

FILES = sorted(Path("ablations").glob("*.yaml"))
MADE_ON_DEMAND = ("data/models", "features_")  # what `prepare` writes and this test does not


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The names of the files that are looked for, and the types of questions."""
    root = tmp_path_factory.mktemp("world")
    (root / "annotations").mkdir()
    for split in ("train", "val", "test"):
        (root / "features" / split).mkdir(parents=True)
        (root / "features" / split / "features.json").touch()
        for kind in ("captions", "questions", "answers", "binding", "scenes"):
            (root / "annotations" / f"{kind}_{split}.json").touch()
        marked = {"annotations": [{"question_type": name} for name in QUESTION_TYPES]}
        (root / "annotations" / f"answers_{split}.json").write_text(json.dumps(marked))
    return root


def requests_of(grid: Grid, world: Path) -> list[tuple[str, ...]]:
    """(command, arguments...) of each step of each setting that differs from the first in one label at most."""
    labels = [cell.labels for cell in grid.cells()]
    near = [each for each in labels if sum(each[axis] != labels[0][axis] for axis in each) <= 1]
    settings = {tuple(each.items()): each for each in near}
    return [
        (grid.steps[step].command, *plan.arguments(grid, labels, step), f"--data.root={world}")
        for labels in settings.values()
        for step in grid.steps
    ]


@pytest.fixture(scope="module")
def answers(world):
    """Ablation -> its requests with their answers; equal requests of all ablations once, in one process."""
    wanted = {file.stem: requests_of(read_grid(file), world) for file in FILES}
    distinct = list(dict.fromkeys(request for requests in wanted.values() for request in requests))
    found = plan.ask([{"command": request[0], "arguments": list(request[1:])} for request in distinct])
    answered = dict(zip(distinct, found, strict=True))
    return {name: [(request, answered[request]) for request in requests] for name, requests in wanted.items()}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_resolves_and_can_write_its_metrics(file, answers):
    grid = read_grid(file)
    for request, answer in answers[file.stem]:
        if "error" in answer and any(made in answer["error"] for made in MADE_ON_DEMAND):
            pytest.skip(f"made by its `prepare`: {answer['error'][:80]}")
        assert "error" not in answer, (request, answer["error"])
    chains = [answer for _, answer in answers[file.stem]]
    per_setting = [
        dict(zip(grid.steps, chains[i : i + len(grid.steps)])) for i in range(0, len(chains), len(grid.steps))
    ]
    providers = [plan.providers_of(grid, chain) for chain in per_setting]
    plan.check_providers(grid, {str(number): each for number, each in enumerate(providers)})
    assert not [metric for metric in grid.metrics if not any(each[metric] for each in providers)]
