"""A run's settings in each of its loggers, and pictures in those that take them: W&B and MLflow by stand-ins."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lit_blip2.lit.callbacks import HParams
from lit_blip2.lit.callbacks.pictures import taker
from tests.trackers import LikeMLflow, LikeWandb, Tracker

CONFIG = "seed_everything: 3\nmodel: {net: {itc: {}, itm: null}}\ntrainer: {max_steps: 7}\n"
SETTINGS = {"itc": "on", "itm": "off", "seed": 3, "data_seed": 0, "steps": 7}


@pytest.fixture
def told(monkeypatch) -> list[tuple]:
    monkeypatch.setattr(Tracker, "told", [])
    return Tracker.told


def module() -> SimpleNamespace:
    parts = dict(representation=None, generation=None, net=SimpleNamespace(objectives=["itc"]))
    return SimpleNamespace(config=CONFIG, **parts)


def test_each_logger_gets_the_settings(tmp_path, told):
    board, table = TensorBoardLogger(tmp_path, name="a"), CSVLogger(tmp_path, name="b")
    run = SimpleNamespace(is_global_zero=True, loggers=[table, board, LikeWandb(), LikeMLflow()])
    HParams().on_fit_start(run, module())
    assert told == [("settings", SETTINGS)] * 2
    table.save()
    for folder in (board.log_dir, table.log_dir):
        board.save()
        with open(f"{folder}/hparams.yaml") as file:
            assert yaml.safe_load(file) == SETTINGS


def test_a_test_is_a_run_of_its_own_for_a_tracker_alone(tmp_path, told):
    run = SimpleNamespace(is_global_zero=True, loggers=[CSVLogger(tmp_path), Tracker()])
    HParams().on_test_start(run, module())
    assert told == [("settings", SETTINGS)] and not list(tmp_path.iterdir())


def test_the_first_rank_alone_logs(told):
    run = SimpleNamespace(is_global_zero=False, loggers=[Tracker()])
    HParams().on_fit_start(run, module())
    HParams().on_test_start(run, module())
    assert told == []


def test_a_tracker_that_takes_pictures_gets_them(told, tmp_path):
    image_HW3 = np.zeros((4, 5, 3), dtype=np.uint8)
    for logger in (LikeWandb(), LikeMLflow()):
        taker(logger)("val/samples", image_HW3, 20)
    assert told == [("picture", "val/samples", [3], 20), ("file", "a1", 3, "val/samples/20.png")]
    assert taker(Tracker()) is None and taker(CSVLogger(tmp_path)) is None
