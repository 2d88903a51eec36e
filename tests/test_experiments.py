"""Every shipped experiment parses against the real signatures and counts as the paper says."""

import re
from pathlib import Path

import pytest
import yaml

from lit_blip2.cli import SuiteCLI, build
from lit_blip2.commands.params import PAPER, comparison
from lit_blip2.network import count, sketch

FILES = sorted(Path("experiments").glob("*.yaml"))


class ParsedError(Exception):
    """Raised where building would begin."""


class ParseOnly(SuiteCLI):
    """Parses, and stops there."""

    def before_instantiate_classes(self):
        raise ParsedError(self.config[self.subcommand])


def parsed(*arguments: str):
    with pytest.raises(ParsedError) as stop:
        build(ParseOnly, ["fit", "--config", "experiments/mini_stage1.yaml", *arguments])
    return stop.value.args[0].model.init_args.net.init_args


@pytest.mark.parametrize("arguments", [["--model.net.itm=null"], ["--model.net.itm", "null"], ["--model.net.itm=~"]])
def test_an_objective_is_switched_off_on_the_command_line(arguments):
    net = parsed(*arguments, "--model.net.qformer.num_queries", "5")
    assert net.itm is None and net.itc is not None and net.qformer.init_args.num_queries == 5


def test_a_null_inside_a_class_on_the_command_line():
    itc = "{class_path: lit_blip2.objectives.itc.ITC, init_args: {weight: 2}}"
    qformer = "{class_path: lit_blip2.model.qformer.QFormer, init_args: {num_queries: 5, vocab_size: null}}"
    net = parsed(f"--model.net.itc={itc}", f"--model.net.qformer={qformer}")
    assert net.itc.init_args.weight == 2
    assert net.qformer.init_args.vocab_size is None and net.qformer.init_args.num_queries == 5


@pytest.mark.parametrize("name, batch", [("vitg_stage1", 1680), ("vitl_stage1", 2320), ("vitg_opt27", 1920)])
def test_the_papers_data_leave_all_else_as_it_is(name, batch):
    with pytest.raises(ParsedError) as stop:
        files = ["--config", f"experiments/{name}.yaml", "--config", "experiments/data/paper_129m.yaml"]
        build(ParseOnly, ["fit", *files])
    data = stop.value.args[0].data
    assert data.class_path.endswith("Mixture") and data.init_args.batch_size == batch
    assert list(data.init_args.sources) == ["coco", "vg", "cc3m", "cc12m", "sbu", "laion"]
    assert data.init_args.val == data.init_args.sources["coco"].init_args.train  # Karpathy's other splits


OVERLAYS = sorted(Path("experiments/zero_shot").glob("*.yaml"))


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.stem)
def test_a_zero_shot_test_parses_behind_the_experiment_that_it_names(file):
    """The command of its first lines, and what it sets."""
    (command,) = re.findall(
        r"python -m lit_blip2 (test --config \S+ --config \S+ --ckpt_path \S+)$", file.read_text(), re.M
    )
    with pytest.raises(ParsedError) as stop:
        build(ParseOnly, command.split())
    assert str(file) in command
    resolved, given = stop.value.args[0], yaml.safe_load(file.read_text())
    for key, value in given["data"]["init_args"].items():
        found = resolved.data.init_args[key]
        assert (
            found if value is None else {name: found[name] for name in value} if isinstance(value, dict) else found
        ) == value
    for key, value in given["model"]["init_args"].items():
        if key != "net":
            assert resolved.model.init_args[key] == value


def test_they_are_found():
    assert len(FILES) >= 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_parses(file):
    with pytest.raises(ParsedError):
        build(ParseOnly, ["fit", "--config", str(file)])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_last_checkpoint_is_of_its_last_step(file):
    """Checkpoints come every so many steps, or with each validation: the run must end with one."""
    trainer = yaml.safe_load(file.read_text())["trainer"]
    kept = [each["init_args"] for each in trainer["callbacks"] if each["class_path"].endswith("ModelCheckpoint")]
    (every,) = (each.get("every_n_train_steps", trainer.get("val_check_interval")) for each in kept)
    assert trainer["max_steps"] % every == 0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_first_lines_tell_its_command_and_its_name(file):
    text = file.read_text()
    assert f"python -m lit_blip2 fit --config experiments/{file.name}" in text.replace("fit  --", "fit --")
    assert yaml.safe_load(text)["trainer"]["logger"]["init_args"]["name"] == file.stem


TRAINABLE = {
    "vitg_stage1": 186_705_470,
    "vitl_stage1": 183_165_758,
    "vitg_opt27": 107_133_696,
    "vitg_opt67": 108_314_880,
    "vitg_flant5xl": 106_739_968,
    "vitg_flant5xxl": 108_314_880,
    "vitl_opt27": 103_593_984,
    "vitl_flant5xl": 103_200_256,
    "vitg_opt27_caption": 1_093_619_584,  # at 364 px, the encoder trains too
}


@pytest.mark.parametrize("name", TRAINABLE)
def test_trainable_parameters_are_those_of_the_paper(name):
    """NUMERICS, trainable parameters."""
    rows = count(sketch(yaml.safe_load(Path(f"experiments/{name}.yaml").read_text())))
    assert sum(trainable for _, trainable, _ in rows) == TRAINABLE[name]
    if name in PAPER:
        assert comparison({name: rows}).splitlines()[-1] in Path("docs/weights.md").read_text()


def test_what_is_not_frozen_counts_as_trainable():
    experiment = yaml.safe_load(Path("experiments/mini_opt.yaml").read_text())
    (frozen,) = [row for row in count(sketch(experiment)) if row[0] == "language"]
    experiment["model"]["init_args"]["net"]["language"]["frozen"] = False
    (trained,) = [row for row in count(sketch(experiment)) if row[0] == "language"]
    assert frozen[1] == trained[2] == 0 and frozen[2] == trained[1] > 800_000


def test_joint_training_counts_one_q_former():
    """Stage 1's parts, and stage 2's projection of them."""
    stage1, stage2, joint = (
        {name: trainable + frozen for name, trainable, frozen in count(sketch(yaml.safe_load(file.read_text())))}
        for file in (Path(f"experiments/mini_{name}.yaml") for name in ("stage1", "opt", "joint"))
    )
    second = {name: stage2[name] for name in ("language", "bridge.projection")}
    assert joint == stage1 | second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.net.itc.wieght=2"], "wieght"),
        (["--data.batch_size=many"], "batch_size"),
        (["--model.net.qformer.num_query=3"], "num_query"),
    ],
)
def test_a_wrong_key_or_value_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        build(ParseOnly, ["fit", "--config", "experiments/mini_stage1.yaml", *arguments])
    assert stopped.value.code != 0
    assert message in capsys.readouterr().err
