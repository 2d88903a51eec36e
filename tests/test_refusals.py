"""What ends in one line, and what in a traceback."""

import json
import sys
from pathlib import Path

import pytest
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lit_blip2.__main__ import main
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.refusals import SHOW_TRACEBACKS, refusal

FIT = ("fit", "--config", "experiments/mini_stage1.yaml", "--data.features=null", "--data.val=null")


@pytest.fixture(autouse=True)
def no_tracebacks(monkeypatch):
    """--debug sets the variable: it is taken away again behind each test."""
    monkeypatch.setenv(SHOW_TRACEBACKS, "")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command line in this process; gives its exit status and its lines on standard error."""

    def call(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["lit_blip2", *arguments])
        try:
            status = main()
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err.splitlines()

    return call


def test_a_faulty_file_of_captions_ends_fit_in_one_line(run, tmp_path):
    (tmp_path / "fruit.json").write_text('{"images": [{"id": 3, "file_name": 4}], "annotations": []}')
    data = (f"--data.root={tmp_path}", "--data.train=fruit.json", "--data.binding_val=null")
    status, lines = run(*FIT, *data, "--trainer.logger=false")
    said = [line for line in lines if line.startswith("error: ")]
    assert status == 2 and len(said) == 1 and f"{tmp_path}/fruit.json: " in said[0] and lines[-1] == said[0]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--data.eval_batch_size=-3", "data.eval_batch_size=-3: each must be at least 1"),
        ("--model.net.qformer.heads=7", "hidden=128 cannot be split into heads=7"),
        ("--trainer.strategy=telepathy", "invalid strategy name: `strategy='telepathy'`"),
        ("--trainer.max_steps=many", "trainer.max_steps: expected int, got many"),
        ("--data.batch_size=many", "data.batch_size: lit_blip2.data.coco.COCO: expected int, got many"),
        ("--trainer.precision=64-half", ", got 64-half"),
        ("--model.net.itx=null", "Stage1: Option 'itx' is not accepted"),
        ("--data.batchsize=3", "error: data: lit_blip2.data.coco.COCO: Option 'batchsize' is not accepted"),
        ("--trainer.logger.init_args.colour=3", "loggers.TensorBoardLogger: Option 'colour' is not accepted"),
        ("--model.net.qformer.hedas=3", "model.net.qformer: lit_blip2.model.qformer.QFormer: Option 'hedas' is not"),
    ],
)
def test_settings_that_are_refused_are_named_in_one_line(run, argument, words):
    status, lines = run(*FIT, argument)
    assert status == 2 and words in lines[-1] and lines[-1].startswith("error: ")
    assert [line for line in lines if line.startswith(("Traceback", "usage:", "  "))] == []


@pytest.mark.parametrize(
    ("experiment", "argument", "words"),
    [
        (
            "mini_t5",
            "--model.net.objective.init_args.learn_begin=true",
            "error: model.net.objective: lit_blip2.objectives.lm.PrefixLM: Option 'learn_begin' is not accepted",
        ),
        (
            "vitg_flant5xl",
            "--model.net.objective.max_text_tokens=32",
            "error: model.net.objective: lit_blip2.objectives.lm.PrefixLM: Option 'max_text_tokens' is not accepted",
        ),
        (
            "mini_opt",
            "--model.net.bridge.init_args.tokens=3",
            "error: model.net.bridge: lit_blip2.model.bridge.QFormerBridge: Option 'tokens' is not accepted",
        ),
    ],
)
def test_an_argument_that_the_class_behind_class_path_does_not_take(run, experiment, argument, words):
    status, lines = run("fit", "--config", f"experiments/{experiment}.yaml", argument)
    assert status == 2 and lines[-1].startswith(words)


MEANT = {
    ("fit", "--config", "experiments/mini_stage2.yaml"): "no file 'experiments/mini_stage2.yaml', did you mean '",
    ("fit", "experiments/mini_stage1.yaml"): "give it by --config experiments/mini_stage1.yaml",
    ("fit", "--config", "experiments/mini_opt.yml"): "did you mean 'experiments/mini_opt.yaml'",
    ("fitt",): "unknown command 'fitt', did you mean 'fit'",
    (*FIT, "--trainer.max_stepz=10"): "unknown option --trainer.max_stepz, did you mean '--trainer.max_steps'",
    (*FIT, "--data.batchsize=3"): "'batchsize' is not accepted, did you mean 'batch_size'",
    (*FIT, "--trainer.precision=bf17"): "got bf17, did you mean 'bf16'",
    (
        *FIT,
        "--data=lit_blip2.data.coco.COCOO",
    ): "COCOO', did you mean 'lit_blip2.data.coco.COCO'",
    (*FIT, "--data=Coco"): "'Coco' is no class: give its whole name, such as lit_blip2.data.coco.COCO",
    (
        *FIT,
        "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStoping",
    ): "callbacks.EarlyStopping'",
    (*FIT, "--trainer.logger=lightning.pytorch.loggers.CSVLoger"): "did you mean 'lightning.pytorch.loggers.CSVLogger'",
    (*FIT, "--warmup_steps=5"): "unknown option --warmup_steps, did you mean '--model.optimization.warmup_steps'",
    (*FIT, "--model.warmup_steps=5"): "'warmup_steps' is not accepted, did you mean 'model.optimization.warmup_steps'",
    ("test", *FIT[1:3], "--ckpt_pth", "runs/x"): "unknown option --ckpt_pth, did you mean '--ckpt_path'",
    ("sweep", "--config", "ablations/objektives.yaml"): "did you mean 'ablations/objectives.yaml'",
    ("sweep", "--config", "ablations/objectives.yaml", "--scale", "smal"): "did you mean 'ablations/scales/small.yaml'",
    ("sweep", "--config", "ablations/objectives.yaml", "--dryrun"): "unknown option --dryrun, did you mean '--dry-run'",
    ("report", "sweeps/x", "--sumary"): "unknown option --sumary, did you mean '--summary'",
    ("params", "--config", "experiments/vitg_opt.yaml"): "did you mean 'experiments/vitg_opt",
    ("data", "chek"): "'chek' is not one of make-mini, make-models, features, index, check, pack, did you mean 'check'",
    ("data", "check", *FIT[1:3], "--smple=3"): "unknown option --smple, did you mean '--sample'",
    ("data", "make-models", "--only", "bret"): "got bret, did you mean 'bert'",
    ("import", "--from", "lavs", "x", "--out", "y"): "'lavs' is not one of lavis, hf, did you mean 'lavis'",
}


@pytest.mark.parametrize("arguments", MEANT, ids=lambda words: " ".join(words[-1:]))
def test_what_was_meant_is_said_in_one_line(run, arguments):
    status, lines = run(*arguments)
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and MEANT[arguments] in lines[0], lines


def test_each_unknown_option_has_its_line(run):
    status, lines = run(*FIT, "--trainer.max_stepz=10", "--dat.root=x")
    assert status == 2 and [line.split(",")[0] for line in lines] == [
        "error: unknown option --trainer.max_stepz", "error: unknown option --dat.root",
    ]  # fmt: skip


def test_each_faulty_argument_has_its_line(run):
    wrong = (
        "--data.batchsize=3",
        "--trainer.max_steps=many",
        "--model.net.qformer.hedas",
        "3",
        "--trainer.precison=16",
    )
    status, lines = run(*FIT, *wrong)
    assert status == 2 and len(lines) == 4 and all(line.startswith("error: ") for line in lines)
    for word in ("batchsize", "expected int, got many", "hedas", "trainer.precison"):
        assert sum(word in line for line in lines) == 1, lines


def test_a_setting_that_a_file_misspells_is_named(run, tmp_path):
    (tmp_path / "mine.yaml").write_text("trainer: {max_stepz: 3}")
    status, lines = run(*FIT, "--config", str(tmp_path / "mine.yaml"))
    assert status == 2 and lines == ["error: unknown setting 'trainer.max_stepz', did you mean 'trainer.max_steps'"]


def test_each_setting_that_files_misspell_has_its_line(run, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "trainer: {max_stepz: 3, precison: 16}\n"
        "data: {class_path: lit_blip2.data.coco.COCO, init_args: {batchsize: 3, root: data/mini, grop: 1}}\n"
        "model: {class_path: lit_blip2.lit.LitStage1, init_args: {net: {qformer: {hedas: 3}}}}\n"
    )
    status, lines = run(*FIT, "--config", str(file), "--trainer.acelerator=cpu")
    words = ("max_stepz", "precison", "batchsize", "grop", "hedas", "acelerator")
    assert status == 2 and len(lines) == len(words), lines
    assert all(sum(f"{word}'" in line or f"{word}," in line for line in lines) == 1 for word in words), lines


@pytest.mark.run
def test_a_failed_start_leaves_no_folder(run, tmp_path):
    logger = f"--trainer.logger.init_args.save_dir={tmp_path}"
    status, lines = run(*FIT, "--data.root=tests", "--data.binding_val=null", logger)
    assert status == 2 and lines[-1].startswith("error: missing: tests/annotations/captions_train.json. The mini-world")
    rows = {"images": [{"id": 3, "file_name": "3.png"}], "annotations": [{"image_id": 3, "caption": "a red pear"}]}
    (tmp_path / "fruit.json").write_text(json.dumps(rows))
    data = (f"--data.root={tmp_path}", "--data.train=fruit.json", "--data.binding_val=null")
    status, lines = run(*FIT, logger, *data)  # is found out once the Trainer runs, and a logger has made the folder
    assert status == 2 and lines[-1].startswith("error: ")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fruit.json"]


@pytest.mark.parametrize("flag", ["--model.net.bridge=thinn.Thin", "--model.net.bridge.class_path=thinn.Thin"])
def test_a_module_that_is_not_there_is_named_with_where_it_is_looked_for(run, tmp_path, monkeypatch, flag):
    experiment = str(Path("experiments/mini_opt.yaml").resolve())
    (tmp_path / "thin.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    status, lines = run("fit", "--config", experiment, flag)
    said = "no module 'thinn', did you mean 'thin': a module of your own must lie in the working folder or in "
    assert status == 2 and len(lines) == 1 and said in lines[0]


def test_a_class_that_is_built_with_other_arguments_is_named_in_one_line(run):
    """A bridge gets two widths; Identity would take them, ReLU does not."""
    bridge = ("--model.net.bridge=torch.nn.ReLU", "--model.init_from=null", "--trainer.logger=false")
    status, lines = run("fit", "--config", "experiments/mini_opt.yaml", *bridge)
    assert status == 2 and "ReLU.__init__() takes from 1 to 2 positional arguments but 3 were given" in lines[-1]
    assert "docs/extend.md" in lines[-1] and not any("Traceback" in line for line in lines)


def test_all_that_is_missing_is_one_list(run):
    """Data and weights of the full size, each path once."""
    status, lines = run("fit", "--config", "experiments/vitg_stage1.yaml", "--trainer.logger=false")
    said = "\n".join(lines)
    assert status == 2 and all(line.startswith("error: ") for line in lines)
    for path in ("captions_train2014.json", "weights/bert-base-uncased'", "eva_giant_patch14_clip_224"):
        assert path in said
    assert said.count("captions_train2014.json") == said.count("'weights/bert-base-uncased'") == 1


def test_a_run_that_is_not_there_is_named_in_one_line(run, tmp_path):
    status, lines = run("test", *FIT[1:], f"--ckpt_path={tmp_path / 'nowhere'}")
    assert status == 2 and "nowhere' is neither a file nor a folder" in lines[-1]
    start = f"--model.init_from={tmp_path / 'nowhere'}"
    status, lines = run("fit", "--config", "experiments/mini_opt.yaml", start, "--trainer.logger=false")
    assert status == 2 and any(line.startswith("error: model.init_from: no checkpoint: ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((*FIT, "--data.batch_size=x"), "Union subtypes"), (("compare", "a", "b"), "no items.npz in a")],
)
def test_the_traceback_can_be_had(run, arguments, words):
    with pytest.raises((ValueError, OSError, ArgumentError), match=words):
        run(*arguments, "--debug")


def test_a_fault_of_the_program_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("lit_blip2.data.coco.COCO.train_files", lambda self: int("seven"))
    with pytest.raises(ValueError, match="invalid literal"):
        run(*FIT, "--data.root=nowhere", "--data.binding_val=null", "--trainer.logger=false")


def caught(function, *arguments) -> BaseException:
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return caught.value


class Faulty:
    """A programming error that looks like a refusal."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        return [].index(place)


@pytest.mark.run
def test_errors_of_loading_processes_are_told_apart(tmp_path):
    (tmp_path / "3.png").write_bytes(b"no image")

    class Images(Faulty):
        def __getitem__(self, place: int):
            return Pixels(tmp_path, 8)._load("3.png", 3)

    refused = caught(next, iter(DataLoader(Images(), num_workers=1)))
    assert refusal(refused) == f"cannot read image {tmp_path}/3.png: not an image"
    assert refusal(caught(next, iter(DataLoader(Faulty(), num_workers=1)))) is None


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    said = refusal(caught(tmp_path.read_text))
    assert said.endswith(f"'{tmp_path}'")


def test_what_a_callback_of_lightnings_does_not_find_is_said_in_one_line():
    with pytest.raises(RuntimeError) as raised:
        EarlyStopping(monitor="")._validate_condition_metric({"loss/itc": 1.0})
    said = refusal(raised.value)
    assert said.startswith("Early stopping conditioned on metric `` which is not available") and "`loss/itc`" in said
