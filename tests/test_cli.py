"""What fit says before and after its steps, by the methods that say it."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import RichModelSummary

from lit_blip2.cli import SuiteCLI
from lit_blip2.lit.callbacks import PrintMetrics
from lit_blip2.reads import READS


@pytest.mark.parametrize(("asked", "left"), [([], 1), ([Namespace(class_path="RichModelSummary")], 2)])
def test_lightnings_table_of_parameters_is_printed_on_request_alone(asked, left):
    cli = object.__new__(SuiteCLI)
    cli.trainer = SimpleNamespace(callbacks=[RichModelSummary(), L.Callback()])
    cli._drop_summary(asked)
    assert len(cli.trainer.callbacks) == left


@pytest.mark.parametrize("in_sweep", [False, True])
def test_a_sweeps_step_is_not_told_what_to_type(tmp_path, monkeypatch, capsys, in_sweep):
    cli = object.__new__(SuiteCLI)
    cli.trainer = SimpleNamespace(log_dir=str(tmp_path), is_global_zero=True, fast_dev_run=False)
    cli.subcommand = "fit"
    cli.config = Namespace(fit=Namespace(model=Namespace(), data=Namespace()))
    monkeypatch.delenv(READS, raising=False)
    if in_sweep:
        monkeypatch.setenv(READS, "[]")
    cli._end("4 of 4 steps", lambda run, of: ["a line"])
    said = capsys.readouterr().out
    assert f"{tmp_path}: 4 of 4 steps" in said and ("next:\n  a line" in said) == (not in_sweep)


def test_loaded_parameters_are_counted(capsys):
    class Net(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.trained, self.frozen = torch.nn.Linear(10, 200), torch.nn.Linear(3, 4).requires_grad_(False)

    PrintMetrics().on_fit_start(SimpleNamespace(is_global_zero=True), Net())
    assert "loaded 2,200 parameters to train and 16 frozen ones" in "".join(capsys.readouterr())
