"""Where loggers of a step are put, whichever they are; an experiment's are in test_experiments.py."""

import pytest

from lit_blip2.loggers import CSV, as_list, in_folder

WHERE = {"save_dir": "sweeps/a/runs", "name": "stage1", "version": "itc=on,seed=0"}
TITLE = "a/stage1/itc=on,seed=0"
WANDB = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"name": None, "version": None}}
MLFLOW = {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"run_name": "x"}}
BOARD = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"name": "x", "log_graph": False}}
OWN_CSV = {"class_path": CSV, "init_args": WHERE}


@pytest.mark.parametrize("logger", [None, False, True, []])
def test_a_step_without_a_logger_leaves_its_curves_in_a_csv_file(logger):
    assert in_folder(logger, WHERE, TITLE) == OWN_CSV


def test_a_logger_with_files_writes_into_the_steps_folder_and_keeps_its_other_settings():
    assert in_folder(BOARD, WHERE, TITLE) == BOARD | {"init_args": {"log_graph": False} | WHERE}
    assert in_folder({"class_path": CSV}, WHERE, TITLE) == OWN_CSV
    assert BOARD["init_args"]["name"] == "x"  # the plan's own settings stay


def test_a_tracker_gets_the_steps_name_and_a_logger_with_files_beside_it():
    named = WANDB | {"init_args": {"name": TITLE, "version": None}}
    assert in_folder(WANDB, WHERE, TITLE) == [OWN_CSV, named]
    assert in_folder([WANDB, MLFLOW, {"class_path": CSV}], WHERE, TITLE) == [
        OWN_CSV, named, MLFLOW | {"init_args": {"run_name": TITLE}}
    ]  # fmt: skip


def test_those_with_a_folder_come_first_as_lightning_asks_the_first_for_it():
    assert as_list([WANDB, BOARD, MLFLOW]) == [BOARD, WANDB, MLFLOW]
