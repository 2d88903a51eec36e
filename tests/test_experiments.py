"""Every shipped experiment parses against the real signatures and counts as the paper says."""

import inspect
import os
import re
from pathlib import Path
from typing import Union

import pytest
import torch
import yaml
from jsonargparse import Namespace
from lightning import Trainer

from lit_blip2.cli import SuiteCLI, build
from lit_blip2.commands.params import PAPER, comparison
from lit_blip2.config import read
from lit_blip2.network import count, sketch
from lit_blip2.parser import MOVED, TRAINER

pytestmark = pytest.mark.run

FILES = sorted(Path("experiments").glob("*.yaml"))


class ParsedError(Exception):
    """Raised where building would begin."""


class ParseOnly(SuiteCLI):
    """Parses, and stops there."""

    def before_instantiate_classes(self):
        raise ParsedError(self.config[self.subcommand])


def parsed(*arguments: str, file: str | Path = "experiments/mini_stage1.yaml", command: str = "fit") -> Namespace:
    with pytest.raises(ParsedError) as stop:
        build(ParseOnly, [command, "--config", str(file), *arguments])
    return stop.value.args[0]


def net_of(config: Namespace) -> Namespace:
    return config.model.init_args.net.init_args


@pytest.mark.parametrize("name", ["limit_test_batches", "limit_val_batches", "val_check_interval", "overfit_batches"])
def test_one_batch_is_never_all_batches(name, monkeypatch):
    hints = inspect.unwrap(Trainer.__init__).__annotations__
    monkeypatch.setitem(hints, name, Union[float, int, None])  # noqa: UP007 - what typing may make of int | float
    assert repr(parsed(f"--trainer.{name}=1").trainer[name]) == "1"
    assert repr(parsed(f"--trainer.{name}=1.0").trainer[name]) == "1.0"


@pytest.mark.parametrize("arguments", [["--model.net.itm=null"], ["--model.net.itm", "null"], ["--model.net.itm=~"]])
def test_an_objective_is_switched_off_on_the_command_line(arguments):
    net = net_of(parsed(*arguments, "--model.net.qformer.num_queries", "5"))
    assert net.itm is None and net.itc is not None and net.qformer.init_args.num_queries == 5


def test_a_null_inside_a_class_on_the_command_line():
    itc = "{class_path: lit_blip2.objectives.itc.ITC, init_args: {weight: 2}}"
    qformer = "{class_path: lit_blip2.model.qformer.QFormer, init_args: {num_queries: 5, vocab_size: null}}"
    net = net_of(parsed(f"--model.net.itc={itc}", f"--model.net.qformer={qformer}"))
    assert net.itc.init_args.weight == 2
    assert net.qformer.init_args.vocab_size is None and net.qformer.init_args.num_queries == 5


def test_nulls_below_the_second_class_and_of_the_data():
    bridge = "{class_path: lit_blip2.model.bridge.MLPBridge, init_args: {hidden: null}}"
    given = ["--data.features=null", "--model.net.vision.weights=null", "--model.net.vision.model_args", "null"]
    config = parsed(f"--model.net.bridge={bridge}", *given, file="experiments/mini_opt.yaml")
    assert config.data.init_args.features is None and net_of(config).bridge.init_args.hidden is None
    vision = net_of(config).vision.init_args
    assert vision.weights is None and vision.model_args is None and vision.name == "vit_tiny_r_s16_p8_224"


def test_a_class_is_found_under_the_name_that_an_older_run_has(tmp_path):
    experiment = yaml.safe_load(Path("experiments/mini_opt.yaml").read_text())
    experiment["trainer"]["callbacks"] = [{"class_path": old} for old in MOVED]
    file = tmp_path / "older.yaml"
    file.write_text(yaml.safe_dump(experiment))
    added = parsed(*(f"--trainer.callbacks+={{class_path: {old}}}" for old in MOVED), file=file)
    assert names(added).count("SceneScores") == names(added).count("EMA") == 2


def test_each_of_several_loggers_is_named_after_the_experiment():
    loggers = (
        "[{class_path: TensorBoardLogger, init_args: {save_dir: a}}, {class_path: CSVLogger, init_args: {save_dir: b}}]"
    )
    found = parsed(f"--trainer.logger={loggers}").trainer.logger
    assert [each.init_args.name for each in found] == ["mini_stage1"] * 2


def test_an_option_does_not_swallow_the_next(capsys):
    with pytest.raises(SystemExit) as stopped:
        build(ParseOnly, ["fit", "--config", "experiments/mini_opt.yaml", "--model.net.prompt", "--data.seed=3"])
    assert stopped.value.code == 2 and "argument --model: expected one argument" in capsys.readouterr().err


def names(config: Namespace) -> list[str]:
    return [each.class_path.split(".")[-1] for each in config.trainer.callbacks]


def test_a_run_is_named_after_the_first_config(tmp_path):
    overlay = ["--config", "experiments/data/paper_129m.yaml"]
    logger = parsed(*overlay, file="experiments/vitg_stage1.yaml").trainer.logger
    assert (logger.init_args.save_dir, logger.init_args.name) == ("runs", "vitg_stage1")
    assert logger.init_args.default_hp_metric is False
    assert parsed("--trainer.logger.name=mine").trainer.logger.init_args.name == "mine"
    other = parsed("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs").trainer.logger
    assert other.class_path.endswith("CSVLogger") and dict(other.init_args).items() >= {"save_dir": "logs"}.items()
    assert other.init_args.name == "mini_stage1"
    assert parsed("--trainer.logger=false").trainer.logger is False


def test_a_run_started_from_another_runs_config_is_named_after_that_run(tmp_path):
    """With the logger's settings in it, as fit saves it, and without, as an import writes it."""
    file = tmp_path / "a_run" / "version_0" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(Path("experiments/mini_stage1.yaml").read_text())
    assert parsed(file=file).trainer.logger.init_args.name == "a_run"
    logger = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "runs", "name": "mini_stage1"}}
    content = yaml.safe_load(file.read_text())
    content["trainer"]["logger"] = logger
    file.write_text(yaml.safe_dump(content))
    assert parsed(file=file).trainer.logger.init_args.name == "mini_stage1"


def test_beside_a_tracker_a_csv_file_gives_a_run_its_folder():
    """Lightning would take the tracker's folder, one for all runs, such as the working folder."""
    table, tracker = parsed("--trainer.logger=tests.trackers.Tracker", "--trainer.logger.project=p").trainer.logger
    assert table.class_path.endswith("CSVLogger") and (table.init_args.save_dir, table.init_args.version) == (
        "runs",
        None,
    )
    assert table.init_args.name == tracker.init_args.name == "mini_stage1" and tracker.init_args.project == "p"


def test_print_config_shows_what_is_shared(capsys):
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--config", "experiments/mini_opt.yaml", "--print_config"])
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert trainer["logger"]["init_args"]["name"] == "mini_opt" and trainer["num_sanity_val_steps"] == 0
    (checkpoint,) = [each for each in trainer["callbacks"] if each["class_path"].endswith("Checkpoints")]
    assert checkpoint["init_args"] == {"every_n_steps": None, "grace": 30.0}


def test_help_says_what_an_experiment_is(capsys):
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--config experiments/NAME.yaml" in shown and "A run lies in runs/NAME" in shown
    for name in ("lit.LitStage2", "lit.callbacks.EMA", "data.coco.COCO", "data.own.OwnData", "data.mixture.Mixture"):
        assert f"lit_blip2.{name}" in shown, f"fit --help does not list {name}"


def test_a_callback_is_shared_unless_one_of_its_kind_is_named(tmp_path):
    ema = "--trainer.callbacks+={class_path: lit_blip2.lit.callbacks.ema.EMA}"
    assert names(parsed(ema)) == ["Checkpoints", "NonFinite", "StepProgressBar", "EMA"]
    assert names(parsed("--trainer.callbacks=null")) == ["Checkpoints", "NonFinite", "StepProgressBar"]
    assert names(parsed("--trainer.callbacks=LearningRateMonitor"))[-1] == "LearningRateMonitor"
    own = parsed("--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_top_k: 3}}]")
    assert names(own) == ["Checkpoints", "NonFinite", "StepProgressBar", "ModelCheckpoint"]
    assert own.trainer.callbacks[3].init_args.save_top_k == 3 and own.trainer.callbacks[3].init_args.save_last is None


@pytest.mark.parametrize(
    ("switch", "left"),
    [
        ("enable_checkpointing", ["NonFinite", "StepProgressBar", "SceneScores"]),
        ("enable_progress_bar", ["Checkpoints", "NonFinite", "SceneScores"]),
    ],
)
def test_a_callback_that_is_switched_off_is_left_out(switch, left):
    """Lightning refuses it."""
    assert names(parsed(f"--trainer.{switch}=false", file="experiments/mini_opt.yaml")) == left


def test_a_resolved_config_resolves_to_itself(tmp_path, capsys):
    """Cells of ablations and config.yaml of runs hold every callback: none is added to them."""
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--config", "experiments/mini_opt.yaml", "--print_config"])
    text = capsys.readouterr().out
    (tmp_path / "cell.yaml").write_text(text)
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--config", str(tmp_path / "cell.yaml"), "--print_config"])
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name, batch", [("vitg_stage1", 1680), ("vitl_stage1", 2320), ("vitg_opt27", 1920)])
def test_the_papers_data_leave_all_else_as_it_is(name, batch):
    data = parsed("--config", "experiments/data/paper_129m.yaml", file=f"experiments/{name}.yaml").data
    assert data.class_path.endswith("Mixture") and data.init_args.batch_size == batch
    assert list(data.init_args.sources) == ["coco", "vg", "cc3m", "cc12m", "sbu", "laion"]
    assert data.init_args.val == data.init_args.sources["coco"].init_args.train  # Karpathy's other splits


OVERLAYS = sorted(file for folder in ("zero_shot", "mini_test") for file in Path("experiments", folder).glob("*.yaml"))


@pytest.mark.parametrize("file", OVERLAYS, ids=lambda file: file.stem)
def test_a_test_set_parses_behind_the_experiment_that_it_names(file):
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
    for key, value in given.get("model", {"init_args": {}})["init_args"].items():
        if key != "net":
            assert resolved.model.init_args[key] == value


def test_they_are_found():
    assert len(FILES) >= 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_parses_and_keeps_its_state_at_each_validation_or_oftener(file):
    trainer = parsed(file=file).trainer
    assert trainer.logger.init_args.name == file.stem
    (kept,) = [each.init_args for each in trainer.callbacks if each.class_path == "lit_blip2.lit.callbacks.Checkpoints"]
    assert kept.every_n_steps or (
        trainer.limit_val_batches != 0 and trainer.max_steps % trainer.val_check_interval == 0
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_first_lines_tell_what_it_is(file):
    """Its command, what to expect, which runs it starts from; and they name no objective that it does not have."""
    head = file.read_text().partition("\nmodel:")[0]
    assert f"python -m lit_blip2 fit --config experiments/{file.name}" in head.replace("fit  --", "fit --")
    assert "\n# Expected" in head
    model = yaml.safe_load(file.read_text())["model"]["init_args"]
    for start in filter(None, (model.get("init_from"), model.get("text_from"))):
        assert start in head and Path("experiments", Path(start).name + ".yaml") in FILES
    assert set(re.findall(r"\b(ITC|ITM|ITG)\b", head)) <= {name.upper() for name in model["net"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_does_not_repeat_what_all_share(file):
    experiment = yaml.safe_load(file.read_text())
    assert list(experiment) == ["model", "data", "trainer"]
    assert not [key for key, value in experiment["trainer"].items() if TRAINER.get(key, ...) == value]


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
    """As counted in LAVIS; the paper has them in millions (commands/params.py)."""
    rows = count(sketch(read(Path(f"experiments/{name}.yaml"))))
    assert sum(trainable for _, trainable, _ in rows) == TRAINABLE[name]
    if name in PAPER:
        assert comparison({name: rows}).splitlines()[-1] in Path("docs/weights.md").read_text()


def test_what_is_not_frozen_counts_as_trainable():
    experiment = read(Path("experiments/mini_opt.yaml"))
    (frozen,) = [row for row in count(sketch(experiment)) if row[0] == "language"]
    experiment.language["frozen"] = False
    (trained,) = [row for row in count(sketch(experiment)) if row[0] == "language"]
    assert frozen[1] == trained[2] == 0 and frozen[2] == trained[1] > 800_000


def test_joint_training_counts_one_q_former():
    """Stage 1's parts, and stage 2's projection of them."""
    stage1, stage2, joint = (
        {name: trainable + frozen for name, trainable, frozen in count(sketch(read(file)))}
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


def test_another_encoder_does_not_get_the_sizes_of_the_experiments_own(tmp_path, capsys):
    """vit_base_patch16_224 of 128 channels and 4 blocks would be none."""
    name, random = "--model.net.vision.name=vit_base_patch16_224", "--model.net.vision.weights=random"
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--config", "experiments/mini_stage1.yaml", name, random])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "vision.name=vit_base_patch16_224" in said[0] and "vit_tiny_r_s16_p8_224" in said[0]
    more = tmp_path / "more.yaml"
    more.write_text("model: {init_args: {net: {vision: {name: vit_small_patch16_224, weights: random}}}}")
    with pytest.raises(SystemExit):
        build(ParseOnly, ["fit", "--config", "experiments/mini_stage1.yaml", "--config", str(more)])
    assert "vision.name=vit_small_patch16_224" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        ("mini_stage1", ["--model.net.vision.name=vit_base_patch16_224", "--model.net.vision.model_args=null"]),
        ("mini_opt", ["--model.net.vision.name=vit_tiny_patch16_224", "--model.net.vision.model_args.depth=4"]),
        ("mini_opt", ["--model.net.vision={name: vit_small_patch16_224, weights: random, model_args: {depth: 2}}"]),
        ("mini_opt", ["--model.net.vision.model_args={depth: 2}"]),
        ("vitg_stage1", ["--model.net.vision.name=vit_base_patch16_clip_224"]),
    ],
)
def test_another_encoder_with_sizes_of_its_own_is_taken(file, arguments):
    parsed(*arguments, file=f"experiments/{file}.yaml")


class Placed(SuiteCLI):
    """Finds a run's place, and stops there."""

    def instantiate_classes(self):
        raise ParsedError(self.config[self.subcommand])


def test_the_checkpoint_that_a_folder_stands_for_is_named(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("lit_blip2.cli.rank_zero_info", told.append)
    for version, step in ((0, 9), (1, 5)):
        checkpoints = tmp_path / f"mine/version_{version}/checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints.parent / "config.yaml").write_text("{}")
        torch.save({"state_dict": {}, "config": "{}", "global_step": step}, checkpoints / "last.ckpt")
    os.utime(tmp_path / "mine/version_0/checkpoints/last.ckpt", (1, 1))
    given = ["validate", "--config", "experiments/mini_stage1.yaml", "--ckpt_path"]
    for path in (tmp_path / "mine", checkpoints / "last.ckpt"):
        with pytest.raises(ParsedError):
            build(Placed, [*given, str(path)])
    assert told == [f"--ckpt_path {tmp_path}/mine: {checkpoints}/last.ckpt is its newest whole checkpoint"]
