"""A failed start leaves no folder, and nothing else is ever taken away."""

import pytest

from lit_blip2.failed_start import remove_begun


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has not begun, beside nothing."""
    folder = tmp_path / "runs/mini/version_0"
    folder.mkdir(parents=True)
    for name in ("events.out.tfevents.1", "hparams.yaml", ".training.lock"):
        (folder / name).touch()
    return folder


def test_a_run_that_has_not_begun_is_taken_away_with_its_name(run):
    remove_begun(run)
    assert not run.parent.exists() and run.parent.parent.exists()


def test_other_runs_stay(run):
    (run.parent / "version_1").mkdir()
    remove_begun(run)
    assert [each.name for each in run.parent.iterdir()] == ["version_1"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "checkpoints/last.ckpt"])
def test_a_run_that_has_begun_stays(run, name):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).touch()
    remove_begun(run)
    assert (run / name).exists() and (run / "hparams.yaml").exists()


def test_a_folder_behind_a_link_and_none_stay(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    remove_begun(tmp_path / "link")
    remove_begun(tmp_path / "nothing")
    assert (run / "hparams.yaml").exists()
