"""What ends in one line, and what in a traceback."""

import sys

import pytest
from lightning.pytorch.callbacks import EarlyStopping
from torch.utils.data import DataLoader

from lit_blip2.__main__ import main
from lit_blip2.data.batches.evaluation import Pixels
from lit_blip2.refusals import SHOW_TRACEBACKS, refusal

FIT = ("fit", "--config", "experiments/mini_stage1.yaml", "--data.features=null", "--data.val=null")


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
    assert status == 1 and len(said) == 1 and f"{tmp_path}/fruit.json: " in said[0] and lines[-1] == said[0]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("argument", "status", "words"),
    [
        ("--data.eval_batch_size=-3", 1, "data.eval_batch_size=-3: each must be at least 1"),
        ("--model.net.qformer.heads=7", 1, "hidden=128 cannot be split into heads=7"),
        ("--trainer.strategy=telepathy", 1, "invalid strategy name: `strategy='telepathy'`"),
        ("--trainer.max_steps=many", 2, "trainer.max_steps: expected int, got many"),
        ("--data.batch_size=many", 2, "data.batch_size: lit_blip2.data.coco.COCO: expected int, got many"),
        ("--trainer.precision=64-half", 2, ", got 64-half"),
        ("--model.net.itx=null", 2, "Stage1: Option 'itx' is not accepted"),
        ("--data.batchsize=3", 2, "error: data: lit_blip2.data.coco.COCO: Option 'batchsize' is not accepted"),
        ("--trainer.logger.init_args.colour=3", 2, "loggers.TensorBoardLogger: Option 'colour' is not accepted"),
        ("--model.net.qformer.hedas=3", 2, "model.net.qformer: lit_blip2.model.qformer.QFormer: Option 'hedas' is not"),
    ],
)
def test_settings_that_are_refused_are_named_in_one_line(run, argument, status, words):
    ended, lines = run(*FIT, argument)
    assert ended == status and words in lines[-1] and lines[-1].startswith("error: ")
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
    assert status == 2 and lines[-1] == words


def test_a_run_that_is_not_there_is_named_in_one_line(run, tmp_path):
    status, lines = run("test", *FIT[1:], f"--ckpt_path={tmp_path / 'nowhere'}")
    assert status == 1 and "nowhere' is neither a file nor a folder" in lines[-1]


def test_the_traceback_can_be_had(run, monkeypatch):
    monkeypatch.setenv(SHOW_TRACEBACKS, "true")
    with pytest.raises(ValueError, match="Union subtypes"):
        run(*FIT, "--data.batch_size=0")


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
    assert refusal(refused) == f"cannot read image {tmp_path}/3.png: no image"
    assert refusal(caught(next, iter(DataLoader(Faulty(), num_workers=1)))) is None


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    said = refusal(caught(tmp_path.read_text))
    assert said.endswith(f"'{tmp_path}'")


def test_what_a_callback_of_lightnings_does_not_find_is_said_in_one_line():
    with pytest.raises(RuntimeError) as raised:
        EarlyStopping(monitor="")._validate_condition_metric({"loss/itc": 1.0})
    said = refusal(raised.value)
    assert said.startswith("Early stopping conditioned on metric `` which is not available") and "`loss/itc`" in said
