"""The demo's own path at a reduced size: the commands it shows, the table it ends with."""

import sys

import pytest

from lit_blip2.mini import demo


@pytest.mark.slow
def test_demo_ends_with_its_table(world, tmp_path, monkeypatch, capfd):
    all_steps = demo.commands
    monkeypatch.setattr(demo, "commands", lambda *given: all_steps(*given)[1:])  # the small world is there already
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.optimization.warmup_steps=1"]
    small = ["--data.batch_size=8", "--data.eval_batch_size=4", "--trainer.log_every_n_steps=1"]
    monkeypatch.setattr(sys, "argv", ["demo", "--runs", str(tmp_path), "--data", str(world), *short, *small])
    assert demo.main() == 0
    rows = (tmp_path / "demo.md").read_text().splitlines()[2:]
    assert len(rows) == len(demo.ROWS) and not [row for row in rows if row.endswith("| - |")]
    shown = capfd.readouterr().out
    assert "tensorboard --logdir" in shown and "GiB" in shown


@pytest.mark.run
def test_demo_stops_at_the_first_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "commands", lambda *_: [("nothing", ["no-such-command"]), ("never", ["fit"])])
    monkeypatch.setattr(sys, "argv", ["demo", "--runs", str(tmp_path)])
    assert demo.main() != 0 and not (tmp_path / "demo.md").exists()
