"""The state of an optimiser that a checkpoint holds is that of these parameters, or it is refused before a step."""

import copy
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR

from lit_blip2.contents import DataError
from lit_blip2.lit.kept_optimizer import settle, take_up
from lit_blip2.lit.optim import AdamWCosine

STEPS = 10


def trained(steps, seed=0, given=None):
    """A small network and what Lightning has of its optimiser and schedule, so many steps on; from a checkpoint's
    states if some are given."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    optimizer, schedule = AdamWCosine(lr=1e-2, warmup_steps=2)(network, STEPS)
    trainer = SimpleNamespace(
        optimizers=[optimizer],
        lr_scheduler_configs=[SimpleNamespace(scheduler=schedule, interval="step", frequency=1)],
        ckpt_path="sent.ckpt",
    )
    if given is not None:
        weights, states, schedules = copy.deepcopy(given)
        network.load_state_dict(weights)
        take_up(trainer, {"optimizer_states": states, "lr_schedulers": schedules, "global_step": 4})
        optimizer.load_state_dict(states[0])
        schedule.load_state_dict(schedules[0])
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.arange(8.0).view(2, 4)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return network, trainer


def held(network, trainer):
    states = [trainer.optimizers[0].state_dict()], [trainer.lr_scheduler_configs[0].scheduler.state_dict()]
    return copy.deepcopy((network.state_dict(), *states))


@pytest.fixture
def kept():
    return held(*trained(4))


def test_a_checkpoint_written_before_the_schedules_step_is_the_same_file():
    network, trainer = trained(3)
    trainer.optimizers[0].step()  # the gradient of the third step again; the schedule has not stepped
    early = {"global_step": 4}
    _, early["optimizer_states"], early["lr_schedulers"] = held(network, trainer)
    trainer.lr_scheduler_configs[0].scheduler.step()
    late = {"global_step": 4}
    _, late["optimizer_states"], late["lr_schedulers"] = held(network, trainer)
    assert repr(early) != repr(late)
    settle(trainer, early)
    assert repr(early) == repr(late)
    settle(trainer, late)
    assert repr(early) == repr(late)
    settle(trainer, weights := {"global_step": 4})
    assert weights == {"global_step": 4}


def test_a_schedule_of_epochs_is_the_checkpoints(kept):
    _, trainer = trained(0)
    trainer.lr_scheduler_configs[0].interval = "epoch"
    _, states, schedules = copy.deepcopy(kept)
    schedules[0]["last_epoch"], states[0]["param_groups"][0]["lr"] = 1, 0.5
    take_up(trainer, {"optimizer_states": states, "lr_schedulers": schedules, "global_step": 4})
    assert schedules[0]["last_epoch"] == 1 and states[0]["param_groups"][0]["lr"] == 0.5


def test_what_was_kept_goes_on_as_if_it_had_not_been_cut(kept):
    whole, cut = held(*trained(7)), held(*trained(3, given=kept))
    assert all(torch.equal(value, cut[0][name]) for name, value in whole[0].items())
    assert repr(whole[1]) == repr(cut[1]) and repr(whole[2]) == repr(cut[2])


def set_in_state(name, value):
    def change(states):
        for each in states[0]["state"].values():
            each[name] = value(each[name]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda states: states[0]["state"].clear(), r"holds no state at step 4"),
        (set_in_state("exp_avg", torch.full((1,), 1.5)), r"exp_avg is float32 of shape \(1,\), where .* \(6, 4\) are"),
        (set_in_state("exp_avg_sq", lambda old: old.flatten()[:-1]), r"exp_avg_sq is float32 of shape \(23,\)"),
        (set_in_state("exp_avg", lambda old: old.long()), r"exp_avg is int64"),
        (set_in_state("exp_avg", lambda old: old.to_sparse()), r"exp_avg is float32"),
        (set_in_state("exp_avg", "much"), r"exp_avg is a str"),
        (set_in_state("step", torch.ones(2)), r"step is float32 of shape \(2,\), where one number"),
        (set_in_state("step", "3"), r"step is a str"),
        (set_in_state("more", torch.ones(2)), r"it has exp_avg, exp_avg_sq, more, step, where"),
        (lambda states: states[0]["state"][0].pop("exp_avg"), r"it has exp_avg_sq, step, where"),
        (lambda states: states[0]["state"].update({0: [1]}), r"its state is list"),
        (lambda states: states[0]["state"].update({77: {}}), r"holds a state of parameter 77, which no group has"),
        (lambda states: states[0].update(state="none"), r"is no state of optimisers"),
        (lambda states: states[0].pop("param_groups"), r"is no state of optimisers"),
        (lambda states: states[0]["param_groups"][0].update(params=[0, 0]), r"is no state of optimisers"),
        (lambda states: states[0]["param_groups"][0].update(params=3), r"is no state of optimisers"),
        (lambda states: states[0]["param_groups"][0].update(params=[[0], [1]]), r"is no state of optimisers"),
    ],
)
def test_a_state_that_is_not_its_parameters_is_refused(kept, change, words):
    change(kept[1])
    with pytest.raises(DataError, match=rf"^sent\.ckpt: optimizer_states.*{words}") as error:
        trained(1, given=kept)
    assert "\n" not in str(error.value) and "--model.init_from" in str(error.value)


@pytest.mark.parametrize("layout", [lambda old: old.T.contiguous().T, lambda old: old[:, :1].expand(old.shape)])
def test_numbers_that_lie_otherwise_are_laid_out_as_their_weight_is(kept, layout):
    """A fused step takes them one behind the other, and would read past the end of a row that is repeated."""
    state = kept[1][0]["state"][0]
    state["exp_avg"] = layout(state["exp_avg"])
    plain = copy.deepcopy(kept)
    plain[1][0]["state"][0]["exp_avg"] = state["exp_avg"].contiguous()
    found, wanted = held(*trained(2, given=kept)), held(*trained(2, given=plain))
    assert all(torch.equal(value, found[0][name]) for name, value in wanted[0].items())


@pytest.mark.parametrize(
    ("name", "value"),
    [("maximize", True), ("weight_decay", 3.0), ("betas", (0.1, 0.2)), ("eps", "x"), ("amsgrad", True), ("fused", 3)],
)
def test_what_the_optimiser_was_told_is_this_runs(kept, name, value, monkeypatch):
    told, wanted = [], held(*trained(2, given=kept))
    monkeypatch.setattr("lit_blip2.lit.kept_optimizer.rank_zero_warn", told.append)
    kept[1][0]["param_groups"][0][name] = value
    assert repr(held(*trained(2, given=kept))) == repr(wanted)
    assert len(told) == 1 and f"sent.ckpt: its optimiser had {name} {value!r}, here" in told[0]


@pytest.mark.parametrize(
    "told",
    [{"base_lrs": [1e-12]}, {"last_epoch": 10**9}, {"_step_count": "x", "_last_lr": 3}, {"step": 3}, {"get_lr": None}],
)
def test_the_rate_is_the_schedules_at_the_checkpoints_step(kept, told):
    wanted = held(*trained(2, given=kept))
    kept[1][0]["param_groups"][0]["lr"] = 5.0
    kept[2][0] |= told
    assert repr(held(*trained(2, given=kept))) == repr(wanted)
    kept[1][0]["param_groups"][0]["lr"] = "fast"
    with pytest.raises(DataError, match=r"^sent\.ckpt: lr of its optimiser's groups is a str, where this run's is"):
        trained(2, given=kept)


@pytest.mark.parametrize("schedules", [3, [], "x", [{}, {}]])
def test_other_schedules_than_this_runs_are_refused(kept, schedules):
    with pytest.raises(DataError, match=r"^sent\.ckpt: lr_schedulers are not the states of 1 schedules"):
        trained(1, given=(*kept[:2], schedules))


class Summing(SGD):
    """As optimisers of elsewhere do, it counts in its groups."""

    def __init__(self, params, lr):
        super().__init__(params, lr, momentum=0.9)
        for group in self.param_groups:
            group["count"] = 0


@pytest.mark.parametrize("kind", [SGD, Summing])
def test_an_optimiser_and_a_schedule_of_ones_own_go_on(kind):
    def make(network):
        optimizer = (
            kind(network.parameters(), lr=0.1) if kind is Summing else SGD(network.parameters(), lr=0.1, momentum=0.9)
        )
        return optimizer, OneCycleLR(optimizer, max_lr=0.1, total_steps=20)

    optimizer, schedule = make(nn.Linear(3, 2))
    for _ in range(3):
        optimizer.step()
        schedule.step()
        for group in optimizer.param_groups:
            group |= {"count": 3} if kind is Summing else {}
    names = ("optimizer_states", "lr_schedulers", "global_step")
    kept = dict(zip(names, ([optimizer.state_dict()], [schedule.state_dict()], 3)))
    states = copy.deepcopy(kept)
    again, schedule = make(nn.Linear(3, 2))
    configs = [SimpleNamespace(scheduler=schedule, interval="step", frequency=1)]
    trainer = SimpleNamespace(optimizers=[again], lr_scheduler_configs=configs, ckpt_path="a.ckpt")
    take_up(trainer, kept)
    assert kept == states
    kept["lr_schedulers"][0]["step"] = 3
    with pytest.raises(DataError, match=r"^a\.ckpt: lr_schedulers is no state of a OneCycleLR \(its 'step'\)"):
        take_up(trainer, kept)
    kept = states
    kept["optimizer_states"][0]["param_groups"][0]["momentum"] = "x"
    with pytest.raises(DataError, match=r"momentum of its optimiser's groups is a str"):
        take_up(trainer, kept)


@pytest.mark.run
def test_a_run_that_was_sent_with_another_state_ends_with_one_line(stage1_run, tmp_path):
    """It used to be killed by SIGSEGV, or to train on what lay behind the state in memory."""
    file = stage1_run / "checkpoints/last.ckpt"
    contents = torch.load(file, weights_only=True)
    for each in contents["optimizer_states"][0]["state"].values():
        each |= {"exp_avg": torch.full((1,), 1.5), "exp_avg_sq": torch.full((1,), 2.5)}
    torch.save(contents, tmp_path / "sent.ckpt")
    command = [sys.executable, "-m", "lit_blip2", "fit", "--config", str(stage1_run / "config.yaml")]
    command += [f"--ckpt_path={tmp_path}/sent.ckpt", "--trainer.max_steps=6", f"--trainer.logger.save_dir={tmp_path}"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if "optimizer_states" in line]
    assert "sent.ckpt: optimizer_states, parameter 0: exp_avg is float32 of shape (1,)" in said[-1], done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"global_step": "x"}, "global_step of the checkpoint have the wrong type"),
        ({"global_step": 10**30}, "global_step 10{30} is no number of steps"),
        ({"validated_step": -1}, "validated_step -1 is no number of steps"),
        ({"optimizer_states": 5, "callbacks": 3}, "callbacks, optimizer_states of the checkpoint have the wrong type"),
        ({"loops": {"a": 1}}, r"loops\.fit_loop is None, where a dict is wanted"),
        ({"loops": {"fit_loop": {"epoch_progress": 5}}}, r"loops\.fit_loop\.\S+ is \S+, where a dict is wanted"),
    ],
)
def test_counts_of_a_checkpoint_are_such(fit, stage1_run, tmp_path, change, words):
    contents = torch.load(stage1_run / "checkpoints/last.ckpt", weights_only=True)
    torch.save(contents | change, tmp_path / "sent.ckpt")
    with pytest.raises(DataError, match=rf"sent\.ckpt: .*{words}"):
        fit("mini_stage1", f"--ckpt_path={tmp_path}/sent.ckpt", "--trainer.max_steps=6")
