"""A worker's share of its machine: threads, and a GPU that no other worker has."""

from contextlib import ExitStack

import pytest

from lit_blip2.ablation.run import machine


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))


def test_each_worker_has_a_gpu_of_its_own_and_gives_it_back(two_gpus):
    with ExitStack() as held:
        given = [held.enter_context(machine.own_gpu()) for _ in range(2)]
        assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == ["3", "5"]
        with pytest.raises(ValueError, match=r"all 2 GPUs of .* use fewer --workers"):
            held.enter_context(machine.own_gpu())
    with machine.own_gpu() as again:
        assert again == {"CUDA_VISIBLE_DEVICES": "3"}


def test_two_jobs_that_both_call_their_gpu_0_do_not_wait_for_one_another(monkeypatch, tmp_path):
    """As SLURM shows each job its own GPUs alone: the names differ, the numbers do not."""
    monkeypatch.setattr(machine.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    smi = tmp_path / "nvidia-smi"
    smi.touch(mode=0o755)
    with ExitStack() as held:
        for name in "ab":
            smi.write_text(f"#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-{name})'\n")
            assert held.enter_context(machine.own_gpu()) == {"CUDA_VISIBLE_DEVICES": "0"}
        with pytest.raises(ValueError, match="all 1 GPUs"):
            held.enter_context(machine.own_gpu())


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_without_gpus_nothing_is_set(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    with machine.own_gpu() as given:
        assert given == {}


def test_cores_are_shared_unless_the_user_says_how(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    assert [machine.thread_share(n)["OMP_NUM_THREADS"] for n in (1, 2, 3, 16)] == ["8", "4", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert machine.thread_share(2) == {}


@pytest.mark.run
def test_a_prepare_line_that_fails_is_named():
    with pytest.raises(RuntimeError, match=r"`python -m lit_blip2 nonsense` ended with exit code 2"):
        machine.run_prepare("nonsense")
