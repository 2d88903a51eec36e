"""A process that trains, validates and draws again and again holds no more than before."""

import platform

import pytest

from benchmarks import long_run

pytestmark = [pytest.mark.slow, pytest.mark.run]


@pytest.mark.skipif(platform.system() != "Linux", reason="/proc is Linux's")
def test_memory_files_and_threads_stay_as_they_are(world, tmp_path):
    """benchmarks/long_run.py at a thirteenth of its length: a leak of a picture at each validation would be 8 %."""
    found = long_run.figures(long_run.train(tmp_path, world, steps=1500, validations=30))
    assert found["steps"] == 1500 and found["validations"] == 30
    assert found["growth"] < 0.03, found
    assert found["files_least"] == found["files_greatest"] and found["threads_least"] == found["threads_greatest"], (
        found
    )
    assert list(tmp_path.glob("runs/mini_joint/version_0/events*"))


def test_what_grows_is_counted_from_the_end_of_the_warm_up():
    rows = [{"step": step, "mb": mb, "files": 9, "threads": 5} for step, mb in enumerate((50, 100, 104, 110, 108), 1)]
    rows[-1]["files"] = 11
    found = long_run.figures(rows, warm_up=1)
    assert found["growth"] == 0.1 and (found["mb_first"], found["mb_greatest"], found["mb_last"]) == (100, 110, 108)
    assert (found["files_least"], found["files_greatest"], found["steps"]) == (9, 11, 5)
