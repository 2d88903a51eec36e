"""What a person sees while a run trains and is evaluated: a bar on a terminal, lines in a log file, metrics once."""

import io
import logging
import re
import sys
import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from rich.console import Console

from lit_blip2.lit.callbacks import step_progress_bar
from lit_blip2.lit.callbacks.print_metrics import PrintMetrics, groups, table
from lit_blip2.lit.callbacks.step_progress_bar import StepProgressBar
from lit_blip2.lit.quiet import quiet


class Module(L.LightningModule):
    """Six steps of two micro-batches, validated after three."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch, batch_idx):
        self.log("train/loss_itc", self.weight.detach() * 2, prog_bar=True)
        return self.weight

    def validation_step(self, batch, batch_idx):
        self.log_dict({"loss/itc": 0.5, "retrieval/itc_txt_r10": 0.9, "retrieval/itc_txt_r5": 0.75})

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Data(L.LightningDataModule):
    batch_size = 16

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(12, 1))

    val_dataloader = test_dataloader = train_dataloader


def trainer(tmp_path, bar: StepProgressBar, **options) -> L.Trainer:
    quiet = dict(enable_model_summary=False, enable_checkpointing=False, logger=False, num_sanity_val_steps=0)
    sizes = dict(max_steps=6, accumulate_grad_batches=2, val_check_interval=6, limit_val_batches=3)
    every = dict(accelerator="cpu", callbacks=[bar, PrintMetrics()], default_root_dir=tmp_path)
    return L.Trainer(**quiet, **sizes, **every, **options)


def fitted(tmp_path, seconds: float) -> None:
    trainer(tmp_path, StepProgressBar(seconds)).fit(Module(), datamodule=Data())


VALIDATED = ["  loss       itc 0.5", "  retrieval  itc_txt_r5 0.75, itc_txt_r10 0.9"]


def test_a_log_file_gets_lines_with_all_that_a_bar_shows(tmp_path, capsys):
    fitted(tmp_path, 0.0)
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert re.fullmatch(r"step 1 of 6, [\d.]+ images/s, \d+ s left, loss_itc 2.000", steps[1])
    assert re.fullmatch(r"step 6 of 6, [\d.]+ images/s, loss_itc 2.000", steps[-1])
    assert "validation: batch 2 of 3" in lines
    assert [lines[(at := lines.index(f"validation at step {step}")) : at + 3][1:] for step in (3, 6)] == [VALIDATED] * 2


def test_between_two_lines_of_a_log_file_some_time_passes(tmp_path, capsys):
    fitted(tmp_path, 3600.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith(("step", "validation:"))] == ["step 6 of 6"]


def test_validations_and_pictures_after_them_are_no_time_of_training(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(step_progress_bar.time, "monotonic", lambda: next(clock))
    bar, run = StepProgressBar(), L.Trainer(max_steps=6, accelerator="cpu", logger=False, barebones=False)
    bar.setup(run, Module(), "fit")
    bar.on_train_start(run, Module())  # at 10
    bar.on_validation_start(run, Module())  # at 20
    bar.val_progress_bar.close()
    assert bar._seconds_trained() == bar._seconds_trained() == 10
    bar.on_train_batch_start()  # at 30
    assert bar._seconds_trained() == 20


def test_on_a_terminal_a_bar_is_drawn_and_metrics_stand_above_it(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(step_progress_bar, "REFRESH_SECONDS", 0.0)
    fitted(tmp_path, 0.0)
    drawn = screen.getvalue()
    assert re.search(r"[#█] step 6 of 6, [\d.]+ images/s, loss_itc 2\.000", drawn) and "\nstep" not in drawn
    assert re.search(r"validation at step 3\n" + "\n".join(VALIDATED), drawn)


def test_a_test_prints_each_metric_once(tmp_path, capsys):
    trainer(tmp_path, StepProgressBar()).test(Module(), datamodule=Data(), verbose=False)
    out = capsys.readouterr().out
    assert out.count("itc_txt_r5") == 1 and out.index("itc_txt_r5") < out.index("itc_txt_r10")


def test_the_table_has_the_intervals_of_those_that_have_some():
    intervals = {"vqa/accuracy": {"low": 0.25, "high": 0.5, "images": 40}}
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table({"evaluated/test_images": 500.0, "vqa/accuracy": 0.375}, intervals))
    rows = [line.strip("│").split() for line in console.export_text().splitlines() if line.startswith("│")]
    assert [[word for word in row if word != "│"] for row in rows] == [
        ["evaluated/test_images", "500"], ["vqa/accuracy", "0.3750", "0.2500", "0.5000", "40"]
    ]  # fmt: skip
    assert groups({}) == [] and groups({"plain": 1.0}) == ["  plain  plain 1"]


SAID = [  # and whether it concerns somebody
    ("You have overridden `on_before_batch_transfer` in `LightningModule` but have passed in a", False),
    ("The 'val_dataloader' does not have many workers which may be a bottleneck.", False),
    ("Found 83 module(s) in eval mode at the start of training. This may lead to", False),
    ("Experiment logs directory runs/x/version_0 exists and is not empty. Previous log files in this", False),
    ("GPU available but not used. You can set it by doing `Trainer(accelerator='gpu')`.", True),
    ("The number of training batches (6) is smaller than the logging interval", True),
    ("trainer.val_check_interval=5 does not divide the run's 12 batches", True),
]


@pytest.mark.parametrize(("said", "concerns"), SAID)
def test_doubts_that_are_settled_are_not_printed_and_other_warnings_are(said, concerns):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet()
        rank_zero_warn(said)
    assert [str(each.message) for each in seen] == [said] * concerns


def test_adverts_and_lists_of_devices_are_not_printed_and_what_a_run_tells_is(tmp_path, caplog):
    """By Lightning's own calls: a Trainer that begins, trains and ends."""
    quiet()
    with caplog.at_level(logging.INFO):
        L.Trainer(accelerator="cpu", limit_val_batches=1, default_root_dir=tmp_path, enable_progress_bar=False)
        assert caplog.messages == []
        fitted(tmp_path, 3600.0)
        rank_zero_info("an unfinished run of these settings lies in runs/x")
    assert caplog.messages == ["an unfinished run of these settings lies in runs/x"]
