"""Steps that are not finite: what is told, what is kept, and that nothing of them gets into a checkpoint."""

import json
import re

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands import replay
from lit_blip2.contents import DataError
from lit_blip2.data.batches.training import TrainPairs
from lit_blip2.lit.callbacks import non_finite
from lit_blip2.lit.finite import check_finite, not_finite
from lit_blip2.lit.kept_batch import keep, read_kept
from lit_blip2.lit.replay import module_of
from lit_blip2.lit.stage1 import LitStage1
from lit_blip2.model.target_text import to_decoder
from lit_blip2.objectives.origin import watched

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = ["--model.net.itg=null", "--data.binding_val=null"]
SKIP = "--trainer.callbacks+={class_path: lit_blip2.lit.callbacks.NonFinite, init_args: {then: skip}}"

ROWS = {"row": torch.tensor([4, 5]), "image_id": torch.tensor([7, 8]), "micro_batch": [0, 1], "seed": 0, "step": 1}
FOUND = {"rank": 0, "micro_batch": 0, "name": "itc", "value": torch.nan}
KEPT = {"step": 1, "rank": 0, "ranks": 1, "found": [FOUND], "batches": [ROWS]}
ENDLESS = []
ENDLESS.append(ENDLESS)


@pytest.fixture
def spoilt(monkeypatch):
    """Make the features of one row of a step nan."""

    def spoil(step: int, row: int):
        before = TrainPairs.__getitems__

        def batch_of(self, keys):
            batch = before(self, keys)
            for place, key in enumerate(keys):
                if key[:2] == (step, row):
                    batch["features"][place, 0, 0] = torch.nan
            return batch

        monkeypatch.setattr(TrainPairs, "__getitems__", batch_of)

    return spoil


class NoRows(Callback):
    """The loss of one objective is not finite, or its gradient, whatever the batch."""

    def __init__(self, step: int, what: str):
        self.step, self.what = step, what

    def on_train_batch_start(self, trainer, module, batch, _):
        net, (step, what) = module.net, (self.step, self.what)
        if batch["step"] == step and not hasattr(module, "spoilt"):
            module.spoilt, before = True, module.losses

            def losses(batch):
                found = before(batch)
                if batch["step"] == step and what == "gradient":
                    found["total"] = found["total"] + (net.qformer.query_tokens * 0).abs().sqrt().sum()
                elif batch["step"] == step:
                    found[what] = found[what] * torch.inf
                    found["total"] = found["total"] + found[what]
                return found

            module.losses = losses


def spoil_step(step: int, what: str) -> str:
    where = "tests.lit.callbacks.test_non_finite.NoRows"
    return f"--trainer.callbacks+={{class_path: {where}, init_args: {{step: {step}, what: {what}}}}}"


def test_a_row_that_is_not_finite_is_named_and_no_other(fit, spoilt, tmp_path):
    spoilt(3, 5)
    with pytest.raises(FloatingPointError, match=r"^step 3: the loss itc is nan, then itm; .*with row 5 ") as error:
        fit("mini_stage1", *PLAIN, runs=tmp_path)
    assert str(error.value).count("(image ") == 1 and "\n" not in str(error.value)
    checkpoint = read_checkpoint(tmp_path / "mini_stage1/version_0")
    assert checkpoint["global_step"] == 2 and not not_finite(checkpoint["state_dict"])
    kept = read_kept(tmp_path / "mini_stage1/version_0/not_finite/step_3.pt")
    (batch,) = kept["batches"]
    assert kept["step"] == 3 and len(batch["caption"]) == len(batch["text"]) == len(batch["image_id"]) == 8
    assert non_finite.faulty_rows(batch) == [(5, batch["image_id"][5].item())]


def test_the_objective_that_went_first_is_named_where_no_row_is_to_blame(fit, tmp_path):
    told = r"^step 1: the loss itm is inf; .* no row is to blame by itself; the batch is row 0 \(image \d+\), .*row 7"
    with pytest.raises(FloatingPointError, match=told):
        fit("mini_stage1", *PLAIN, spoil_step(1, "itm"), runs=tmp_path)
    assert (tmp_path / "mini_stage1/version_0/not_finite/step_1.pt").is_file()


@pytest.mark.parametrize("late", [0, 1])
def test_a_gradient_that_is_not_finite_touches_no_weight(fit, tmp_path, monkeypatch, late):
    monkeypatch.setitem(non_finite.STEPS_LATE, "cpu", late)
    with pytest.raises(FloatingPointError, match=r"^step 3: the gradient norm is nan, and no loss is; weights and"):
        fit("mini_stage1", *PLAIN, spoil_step(3, "gradient"), runs=tmp_path)
    assert read_checkpoint(tmp_path / "mini_stage1/version_0")["global_step"] == 2


def test_weights_that_the_last_step_broke_get_into_no_checkpoint(fit, tmp_path):
    """The rate makes numbers beyond float32 of finite gradients."""
    with pytest.raises(FloatingPointError, match=r"step 1 left numbers that are not finite in .*net\."):
        fit(
            "mini_stage1", *PLAIN, "--model.optimization.lr=1e38", "--model.optimization.weight_decay=10",
            "--model.optimization.warmup_steps=0", "--trainer.max_steps=1", "--trainer.limit_val_batches=0",
            runs=tmp_path,
        )  # fmt: skip
    assert not list(tmp_path.rglob("*.ckpt"))


def test_steps_that_are_left_out_are_counted_and_change_nothing(fit, tmp_path):
    run = fit("mini_stage1", *PLAIN, SKIP, spoil_step(2, "itm"), runs=tmp_path)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["train/skipped_steps"] == 1
    before, after = (torch.load(next(run.rglob(f"*step={step}.ckpt")), weights_only=True) for step in (2, 4))
    states = (each["optimizer_states"][0]["state"] for each in (before, after))
    assert [{int(one["step"]) for one in state.values()} for state in states] == [{2}, {3}]
    assert after["callbacks"]["NonFinite"] == {"skipped": 1, "in_a_row": 0}


def test_a_run_that_left_a_step_out_resumes_bit_by_bit(fit, tmp_path):
    told = [*PLAIN, SKIP, spoil_step(1, "gradient")]
    whole = fit("mini_stage1", *told, runs=tmp_path / "whole")
    middle = next(whole.rglob("*step=2.ckpt"))
    resumed = fit("mini_stage1", *told, f"--ckpt_path={middle}", runs=tmp_path / "resumed")
    one, two = (read_checkpoint(run) for run in (whole, resumed))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert one["callbacks"]["NonFinite"] == two["callbacks"]["NonFinite"] == {"skipped": 1, "in_a_row": 0}
    assert json.loads((resumed / "metrics.json").read_text())["train/skipped_steps"] == 1


def test_a_run_that_leaves_every_step_out_ends(fit, monkeypatch, tmp_path):
    monkeypatch.setattr(non_finite, "MOST_IN_A_ROW", 2)
    before = LitStage1.losses
    monkeypatch.setattr(LitStage1, "losses", lambda *given: {k: v * torch.nan for k, v in before(*given).items()})
    with pytest.raises(FloatingPointError, match=r"^step 2: the loss itc is nan"):
        fit("mini_stage1", *PLAIN, SKIP, runs=tmp_path)


def test_of_gathered_micro_batches_the_bad_one_is_kept(fit, spoilt, tmp_path):
    spoilt(1, 6)
    with pytest.raises(FloatingPointError, match=r"^step 1: .* come with row 6 "):
        fit("mini_stage1", *PLAIN, "--trainer.accumulate_grad_batches=2", runs=tmp_path)
    (batch,) = read_kept(tmp_path / "mini_stage1/version_0/not_finite/step_1.pt")["batches"]
    assert batch["row"].tolist() == [4, 5, 6, 7] and batch["micro_batch"] == [1, 2]


def test_the_state_of_an_optimiser_is_looked_at_too():
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.tensor([1.0, torch.nan])}}
    checkpoint = {"global_step": 3, "state_dict": {"a": torch.ones(2)}, "optimizer_states": [{"state": state}]}
    with pytest.raises(FloatingPointError, match=re.escape("optimizer_states.0.state.0.exp_avg")):
        check_finite(checkpoint)


def test_a_batch_comes_back_as_it_was_and_no_class_of_anybody_is_kept(tmp_path):
    target = to_decoder([[1, 2], [3]], [[4], [5, 6]])
    batch = KEPT["batches"][0] | {"target": target, "prompts": None, "question": ["who ?", "what ?"], "odd": object()}
    keep(tmp_path / "step_1.pt", KEPT | {"batches": [batch]})
    (found,) = read_kept(tmp_path / "step_1.pt")["batches"]
    assert found.keys() == batch.keys() - {"odd"} and found["question"] == batch["question"]
    assert torch.equal(found["target"].inputs.ids_L, target.inputs.ids_L)
    assert found["target"].inputs.max_length == 3 and found["target"].decoder_inputs is None


def test_a_kept_batch_is_replayed_with_the_last_good_weights(fit, spoilt, tmp_path, capsys):
    spoilt(3, 5)
    with pytest.raises(FloatingPointError) as error:
        fit("mini_stage1", *PLAIN, runs=tmp_path)
    (file,) = tmp_path.rglob("not_finite/*.pt")
    assert f"`python -m lit_blip2 replay {file}`" in str(error.value)
    capsys.readouterr()
    assert replay.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "step=2.ckpt, which stands at step 2" in out or "last.ckpt, which stands at step 2" in out
    assert "in the run: itc was nan" in out and out.count("comes with numbers that are not finite") == 1
    assert re.search(r"itc +loss nan .* the output of qformer\.", out) and re.search(r"itm +loss nan", out)
    torch.save(KEPT, file)
    with pytest.raises(DataError, match=r"micro-batch 1 of the kept batch does not fit its run's network \(KeyError"):
        replay.main([str(file)])


def test_a_batch_is_replayed_without_a_checkpoint_too_and_a_finite_one_gives_the_losses_of_the_run(
    fit, tmp_path, capsys
):
    with pytest.raises(FloatingPointError):
        fit("mini_stage1", *PLAIN, spoil_step(0, "gradient"), "--seed_everything=3", runs=tmp_path)
    (file,) = tmp_path.rglob("not_finite/*.pt")
    assert replay.main([str(file)]) == 0
    out = capsys.readouterr().out
    assert "drawn anew, as the run has no checkpoint" in out and out.count(" finite\n") == 2


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 no archive", None])
def test_what_is_no_kept_batch_is_refused_in_words(tmp_path, contents):
    file = tmp_path / "step_1.pt"
    file.write_bytes(contents) if contents is not None else torch.save({"state_dict": {}}, file)
    with pytest.raises(ValueError, match=r"step_1\.pt (cannot be read|is no kept batch)"):
        read_kept(file)


@pytest.mark.parametrize(
    ("parts", "rows", "said"),
    [
        *[({name: None}, {}, f": {name} is of type NoneType") for name in ("rank", "ranks", "found")],
        ({"step": "1"}, {}, ": step is of type str, where int is wanted: name a file of not_finite/"),
        ({"found": [1]}, {}, ": found.0: rank is missing"),
        ({"found": [FOUND | {"value": "nan"}]}, {}, ": found.0: value is of type str"),
        ({"batches": "abc"}, {}, ": batches is of type str"),
        ({"batches": [1]}, {}, ": batches.0: step is missing"),
        ({}, {"row": [4, 5]}, ": batches.0: row is of type list"),
        ({}, {"row": torch.zeros(0, dtype=torch.int64)}, ": batches.0: row is [0], image_id [2]"),
        ({}, {"row": torch.zeros(2, 2)}, ": batches.0: row is [2, 2]"),
        ({}, {"micro_batch": [1]}, ": batches.0: micro_batch is not two whole numbers"),
        ({}, {"micro_batch": None}, ": batches.0: micro_batch is of type NoneType"),
        ({}, {"text": {"class": "PackedText", "other": 1}}, " is damaged or cut, or no kept batch (TypeError"),
        ({}, {"text": {"class": [1]}}, " is damaged or cut, or no kept batch (TypeError"),
        ({}, {"text": ENDLESS}, " is damaged or cut, or no kept batch (RecursionError"),
    ],
)
def test_a_kept_batch_of_other_parts_is_refused_by_its_file(tmp_path, parts, rows, said):
    file = tmp_path / "step_1.pt"
    torch.save(KEPT | {"batches": [ROWS | rows]} | parts, file)
    with pytest.raises(DataError, match=re.escape(f"{file}{said}")):
        read_kept(file)


@pytest.mark.parametrize("place", ["row", "image", "found"])
def test_a_kept_batch_of_more_numbers_than_its_file_is_refused(tmp_path, place):
    """A stride of 0 lets one number stand for any number of them."""
    file, many = tmp_path / "step_1.pt", torch.zeros(1, dtype=torch.int64).expand(10**10)
    batch = {"row": torch.arange(3), "image": torch.ones(3).expand(2, 3)}
    batch |= {place: many if place == "row" else [many]}
    torch.save({"step": 1, "batches": [batch]}, file)
    said = rf"step_1\.pt: batches\.0\.{place}(\.0)? is \(10000000000,\), and the file holds 1 "
    with pytest.raises(DataError, match=said):
        read_kept(file)


def test_a_configuration_behind_a_link_is_not_replayed(tmp_path):
    """Of a run without a checkpoint."""
    (tmp_path / "elsewhere.yaml").write_text("secret: 1\n")
    (tmp_path / "run/not_finite").mkdir(parents=True)
    (tmp_path / "run/config.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    with pytest.raises(DataError, match=r"run/config\.yaml leads out of .*, to .*elsewhere\.yaml, by a link"):
        module_of(tmp_path / "run/not_finite/step_1.pt")


def test_the_first_module_that_is_not_finite_is_found():
    class Root(torch.nn.Module):
        def forward(self, x):
            return (x * 0).sqrt()

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), Root(), torch.nn.Linear(2, 2))
    with watched(net) as origin:
        net(torch.ones(1, 2)).sum().backward()
    assert (origin.forward, origin.backward) == (
        None,
        "0",
    )  # the root's own gradient is inf, and reaches what is before
    net[0].weight.data.fill_(torch.inf)
    with watched(net) as origin:
        net(torch.ones(1, 2))
    assert origin.forward == "0"
