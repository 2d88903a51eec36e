"""Every shipped ablation resolves at every scale without weights or data: each label of each axis is accepted, and each
metric can be written. What a scale lacks is listed here.

A sweep resolves every cell before it starts; here one axis is changed at a time.
"""

import fnmatch
import json
import shlex
import shutil
from pathlib import Path

import pytest

from lit_blip2.ablation.run import plan, space
from lit_blip2.ablation.spec.grid import Grid
from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.ablation.spec.scale import read_scale, scales
from lit_blip2.commands import sweep
from lit_blip2.mini.extras import KINDS
from lit_blip2.mini.grammar import QUESTION_TYPES
from lit_blip2.resolve import ParserOnly, build, resolve

HOUSE = Path.cwd()
FILES = sorted(Path("ablations").glob("*.yaml"))
MADE = ("opt_small", "opt_instruct", "opt_longer")  # language models that `prepare` trains: their sizes must be known
ONLY_MINI = {"detail", "joint", "llm_tuning", "reading", "search_lr", "spatial", "unfreeze_llm_narrow"}
ONLY_MINI |= {"skip_stage1_boilerplate", "skip_stage1_styles", "stage1_length"}
REFUSED = {
    "mini_styles": {"detail", "encoder_size", "joint", "reading", "unfreeze_llm_narrow"},
    "tiny": {"encoder_size", "llm_size", "llm_tuning", "stage1_length"},
    "vitb_opt125m": {"encoder_size", "llm_size", "skip_stage1_t5", *ONLY_MINI},
    "vitg_opt27": ONLY_MINI,
}
WITHOUT = {  # labels that are left out
    ("vitb_opt125m", "skip_stage1_as_read"): {"llm=t5"},
    ("vitb_opt125m", "bridge"): {"bridge=shuffle"},
    ("mini", "forgetting"): {"remedy=aligned"},
    ("small", "forgetting"): {"remedy=aligned"},
    ("tiny", "forgetting"): {"remedy=aligned", "remedy=instructed"},
    ("vitb_opt125m", "forgetting"): {"remedy=aligned", "remedy=instructed"},
    ("vitg_opt27", "forgetting"): {"remedy=aligned", "remedy=instructed"},
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """A folder with the house's files, the configs of the models that are made on demand, and no data."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("ablations", "experiments", "lit_blip2"):
        (folder / name).symlink_to(HOUSE / name)
    for name in MADE:
        (folder / "data/models" / name).mkdir(parents=True)
        shutil.copy(HOUSE / "lit_blip2/mini/weights/opt/config.json", folder / "data/models" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def here():
    """Answers the requests of all ablations in this process, with one parser, equal requests once."""
    cli, known = build(ParserOnly, run=False), {}

    def ask(requests: list[dict]) -> list[dict]:
        named = {json.dumps(request): request for request in requests}
        known.update({name: resolve(cli, **request) for name, request in named.items() if name not in known})
        return [known[json.dumps(request)] for request in requests]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ask", ask)
        patch.setattr(space, "ask", ask)
        yield


def few_cells(grid: Grid) -> None:
    """One seed, and one axis changed at a time, unless a step of other cells is spoken of beforehand."""
    grid.seeds, grid.vary = grid.seeds[:1], "one"
    kept = [point.labels for point in grid.points()]
    named = [labels for each in grid.expected if each.at for labels in (each.better, each.than)]
    grid.vary = "one" if all(labels in kept for labels in named) else "product"


@pytest.mark.slow
@pytest.mark.parametrize("scale", scales())
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_resolves_or_says_what_the_scale_lacks(file, scale, here):
    if file.stem in REFUSED.get(scale, ()):
        with pytest.raises(ValueError, match=f"{file.stem}.yaml cannot be run at scale {scale}: "):
            read_grid(file, scale)
        return
    grid = read_grid(file, scale)
    if grid.ranges:
        space.make_space(grid, files=False)
    else:
        few_cells(grid)
        plan.make_plan(grid, files=False)  # raises ValueError for a metric that no cell can write
    left_out = {line.partition(": ")[0] for line in grid.left_out}
    assert {name for name in left_out if "=" in name} == WITHOUT.get((scale, file.stem), set())


@pytest.mark.parametrize("name", ["skip_stage1_t5", "skip_stage1_styles", "skip_stage1_boilerplate", "stage1_length"])
def test_what_stands_beside_skip_stage1_has_its_recipe(name):
    """Stage 1 with the same settings; stage 2 too, but for what an ablation is about."""
    primary, other = read_grid("ablations/skip_stage1.yaml"), read_grid(f"ablations/{name}.yaml")
    assert other.seeds == primary.seeds[:5]

    def given(grid, step, **labels):
        return dict(each.split("=", 1) for each in grid.arguments(grid.setting(labels), step) if "=" in each)

    skipped = {"stage1_length": {"steps": "0"}, "skip_stage1_boilerplate": {}}
    off = given(other, "stage2", **skipped.get(name, {"stage1": "off"}))
    ours = given(primary, "stage2", stage1="off")
    if name == "skip_stage1_t5":
        off = {key: value for key, value in off.items() if key in ours}
    assert off == ours
    if "stage1" in other.steps:
        whole = given(other, "stage1", **({} if name == "stage1_length" else {"stage1": "on"}))
        assert whole == given(primary, "stage1")


def test_metrics_by_type_of_question_are_the_mini_world_s():
    typed = [metric for file in FILES for metric in read_grid(file).metrics if metric.startswith("vqa/type_")]
    assert typed and {metric.removeprefix("vqa/type_") for metric in typed} <= {*QUESTION_TYPES, *KINDS}


def test_what_a_scale_gives_or_lacks_is_asked_for():
    text = "".join(file.read_text() for file in FILES)
    metrics = {metric for file in FILES for metric in read_grid(file).metrics}
    for scale in map(read_scale, scales()):
        assert not [name for name in scale.gives if f"scale.{name}" not in text]
        rest = [
            name for name in scale.lacks if f"scale.{name}" not in text and Path(f"ablations/{name}.yaml") not in FILES
        ]
        assert not [pattern for pattern in rest if not fnmatch.filter(metrics, pattern)]


def shown() -> list[str]:
    """The sweeps at a scale that README, the page of full size and --help show."""
    pages = [Path("README.md"), Path("docs/full_size.md")]
    lines = ("".join(page.read_text() for page in pages) + sweep.EXAMPLES).splitlines()
    return [line.split("lit_blip2 sweep", 1)[1] for line in lines if "lit_blip2 sweep" in line and "--scale" in line]


@pytest.mark.slow
@pytest.mark.parametrize("line", shown())
def test_what_is_shown_can_be_run(line, here):
    options = sweep.parser().parse_args(shlex.split(line))
    grid = read_grid(options.config, options.scale, options.set)
    few_cells(grid)
    plan.make_plan(grid, files=False)
