"""A resumed run trains on the batches of the steps that come next, whatever was counted before."""

import json
import shutil
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.progress import INTERVALS, _changed, check_intervals
from lit_blip2.runs import step_of

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = ["--model.net.itm=null", "--model.net.itg=null", "--data.binding_val=null"]
SAVE = "{class_path: ModelCheckpoint, init_args: {save_last: true, save_top_k: -1, every_n_train_steps: %d%s}}"


def callbacks(every: int, also: str = "", more: str = "") -> str:
    return f"--trainer.callbacks=[{SAVE % (every, also)}{more}]"


@pytest.fixture
def seen(monkeypatch):
    """(step, first row, rows) of each micro-batch that was trained on."""
    rows, before = [], LitBLIP2.training_step

    def step(self, batch, batch_idx):
        rows.append((batch["step"], batch["row"][0].item(), len(batch["row"])))
        return before(self, batch, batch_idx)

    monkeypatch.setattr(LitBLIP2, "training_step", step)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 4), (4, 1), (2, 4)])
def test_the_steps_that_come_next_are_whole_ones(fit, seen, first, then):
    run = fit("mini_stage1", *PLAIN, f"--trainer.accumulate_grad_batches={first}", callbacks(3))
    seen.clear()
    middle = next((run / "checkpoints").glob("*step=3.ckpt"))
    more = [f"--trainer.accumulate_grad_batches={then}", "--trainer.max_steps=6", f"--ckpt_path={middle}"]
    resumed = fit("mini_stage1", *PLAIN, *more, f"--trainer.val_check_interval={then}")
    size = 8 // then
    assert seen == [(step, place * size, size) for step in (3, 4, 5) for place in range(then)]
    assert read_checkpoint(resumed)["global_step"] == 6
    lines = [json.loads(line) for line in (resumed / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 4, 5, 6]  # of step 3 none had been made


class Fail(L.Callback):
    """Fails once, as soon as so many micro-batches were trained on (or validated on)."""

    def __init__(self, training: int = -1, validation: int = -1):
        self.left = {"train": training, "validation": validation}

    def _count(self, stage: str) -> None:
        self.left[stage] -= 1
        if not self.left[stage]:
            raise RuntimeError("a power cut")

    def on_train_batch_end(self, *_):
        self._count("train")

    def on_validation_batch_start(self, *_):
        self._count("validation")


def fail(fit, where: str, *arguments: str, runs):
    told = f", {{class_path: tests.lit.test_resume.Fail, init_args: {{{where}}}}}"
    with pytest.raises(RuntimeError, match="a power cut"):
        fit("mini_stage1", *PLAIN, *arguments, callbacks(100, ", save_on_exception: true", told), runs=runs)
    return runs / "mini_stage1" / "version_0"


def test_a_step_that_was_cut_off_is_taken_again_and_validations_stay_in_their_places(fit, seen, tmp_path):
    halves = ["--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=4"]
    broken = fail(fit, "training: 3", *halves, runs=tmp_path)
    seen.clear()
    resumed = fit("mini_stage1", *PLAIN, *halves, f"--ckpt_path={broken}")
    assert seen == [(step, place, 4) for step in (1, 2, 3) for place in (0, 4)]
    lines = [json.loads(line) for line in (resumed / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_validation_that_was_cut_off_is_made_again_from_its_beginning(fit, tmp_path, batch):
    whole = fit("mini_stage1", *PLAIN)
    broken = fail(fit, f"validation: {batch}", runs=tmp_path)  # 6 images, 4 at a time
    resumed = fit("mini_stage1", *PLAIN, f"--ckpt_path={broken}")
    expected, found = (
        [
            {name: value for name, value in json.loads(line).items() if not name.startswith("train/")}
            for line in (run / "validation.jsonl").read_text().splitlines()
        ]
        for run in (whole, resumed)
    )
    assert [line["step"] for line in found] == [2, 4]
    assert found == expected and "retrieval/itc_txt_r5" in found[0]


@pytest.mark.slow
def test_a_validation_that_was_made_again_is_not_taken_up_by_the_next_to_go_on(fit, tmp_path):
    whole = fit("mini_stage1", *PLAIN)
    broken = fail(fit, "validation: 1", runs=tmp_path / "first")
    again = fail(fit, "training: 1", f"--ckpt_path={broken}", runs=tmp_path / "again")  # behind step 2's validation
    resumed = fit("mini_stage1", *PLAIN, f"--ckpt_path={again}")
    expected, found = ((run / "validation.jsonl").read_text().splitlines()[-1] for run in (whole, resumed))
    assert found == expected and len((resumed / "validation.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("also", [[], ["--trainer.limit_train_batches=2", "--trainer.max_epochs=-1"]])
def test_an_accumulation_that_a_callback_changes_is_refused_before_its_first_step(fit, seen, also):
    scheduler = ", {class_path: GradientAccumulationScheduler, init_args: {scheduling: {0: 2}}}"
    with pytest.raises(RuntimeError, match="micro-batch 0 of 1, and training is at step 0, micro-batch 0 of 2: set"):
        fit("mini_stage1", *PLAIN, *also, callbacks(2, more=scheduler))
    assert seen == [(0, 0, 8)]


def test_an_epoch_that_would_end_within_a_step_is_refused(fit):
    with pytest.raises(ValueError, match="limit_train_batches=3 ends in the middle of a step of 2 micro-batches"):
        fit("mini_stage1", *PLAIN, "--trainer.limit_train_batches=3", "--trainer.accumulate_grad_batches=2")


@pytest.mark.slow
def test_epochs_of_a_few_batches_are_resumed_in_their_middle(fit, seen):
    short = ["--trainer.limit_train_batches=6", "--trainer.accumulate_grad_batches=2", "--trainer.max_steps=7"]
    run = fit("mini_stage1", *PLAIN, *short, callbacks(4))
    whole = seen.copy()
    assert [step for step, *_ in whole] == [step for step in range(7) for _ in range(2)]
    seen.clear()
    fit("mini_stage1", *PLAIN, *short, f"--ckpt_path={next((run / 'checkpoints').glob('*step=4.ckpt'))}")
    assert seen == whole[8:]


class Epochs(L.Callback):
    """Tells the beginning and the end of each epoch; a power cut comes at one of them."""

    told: list[tuple[str, int, int]] = []  # noqa: RUF012, of all

    def __init__(self, cut: tuple[str, int] | None = None):
        self.cut = cut

    def _tell(self, what: str, trainer: L.Trainer) -> None:
        if self.cut == (what, trainer.current_epoch):
            raise RuntimeError("a power cut")
        self.told.append((what, trainer.current_epoch, trainer.global_step))

    def on_train_epoch_start(self, trainer, *_):
        self._tell("begins", trainer)

    def on_train_epoch_end(self, trainer, *_):
        self._tell("ends", trainer)

    def on_train_end(self, trainer, *_):
        self._tell("all end", trainer)


EPOCHS = ["--trainer.limit_train_batches=4", "--trainer.accumulate_grad_batches=2", "--trainer.max_epochs=3"]
EPOCHS += ["--trainer.max_steps=9", *PLAIN]
AT_END = ", {class_path: ModelCheckpoint, init_args: {every_n_epochs: 1, every_n_train_steps: null, save_top_k: -1, "
AT_END += "save_on_train_epoch_end: true}}"


@pytest.mark.slow
@pytest.mark.parametrize(("cut", "validations"), [("ends", 2), ("ends", 4), ("begins", 4), ("begins", 8)])
def test_a_cut_between_two_epochs_leaves_their_number(fit, seen, tmp_path, monkeypatch, cut, validations):
    """And the hooks of each come once more or again, from where the checkpoint was written."""
    monkeypatch.setattr(Epochs, "told", [])
    given = [*EPOCHS, "--trainer.check_val_every_n_epoch=null", f"--trainer.val_check_interval={validations}"]
    with_epochs = "{{class_path: tests.lit.test_resume.Epochs, init_args: {{cut: {}}}}}".format
    fit("mini_stage1", *given, callbacks(1), f"--trainer.callbacks+={with_epochs('null')}")
    told, whole = Epochs.told.copy(), seen.copy()
    assert [each for each in told if each[0] != "begins"] == [
        ("ends", 0, 2), ("ends", 1, 4), ("ends", 2, 6), ("all end", 3, 6),
    ]  # fmt: skip
    epoch = 1 if cut == "ends" else 2
    with pytest.raises(RuntimeError, match="a power cut"):
        told_cut = f"--trainer.callbacks+={with_epochs(f'[{cut}, {epoch}]')}"
        fit("mini_stage1", *given, callbacks(1), told_cut, runs=tmp_path)
    run = tmp_path / "mini_stage1" / "version_0"
    Epochs.told.clear(), seen.clear()
    resumed = fit(
        "mini_stage1", *given, callbacks(1), f"--trainer.callbacks+={with_epochs('null')}", f"--ckpt_path={run}"
    )
    assert Epochs.told == told[told.index(("ends", 1, 4)) :] and seen == whole[8:]
    assert step_of(resumed) == 6


def test_a_checkpoint_that_the_end_of_an_epoch_has_written_does_not_end_it_again(fit, seen, monkeypatch):
    monkeypatch.setattr(Epochs, "told", [])
    given = [*EPOCHS, callbacks(100, more=AT_END), "--trainer.callbacks+=tests.lit.test_resume.Epochs"]
    run = fit("mini_stage1", *given)
    told, whole = Epochs.told.copy(), seen.copy()
    Epochs.told.clear(), seen.clear()
    fit("mini_stage1", *given, f"--ckpt_path={next((run / 'checkpoints').glob('*step=4.ckpt'))}")
    assert Epochs.told == told[told.index(("begins", 2, 4)) :] and seen == whole[8:]


class AddGroup(L.Callback):
    """Gives the optimiser a group more, of a parameter that no loss uses."""

    def __init__(self, at: str):
        setattr(self, at, self.add)

    def add(self, trainer, *_):
        trainer.optimizers[0].add_param_group({"params": [torch.nn.Parameter(torch.zeros(3))]})
        schedule = trainer.lr_scheduler_configs[0].scheduler
        schedule.base_lrs.append(0.1)
        schedule.lr_lambdas.append(schedule.lr_lambdas[0])


def test_a_group_of_parameters_that_a_callback_adds_too_late_is_named(fit, seen):
    add = "--trainer.callbacks+={{class_path: tests.lit.test_resume.AddGroup, init_args: {{at: {}}}}}".format
    longer = ["--trainer.max_steps=6", "--trainer.val_check_interval=6"]
    run = fit("mini_stage1", *PLAIN, add("on_train_start"))
    seen.clear()
    with pytest.raises(ValueError, match=r"groups have \d+, \d+, 1 parameters, here .* in on_fit_start"):
        fit("mini_stage1", *PLAIN, *longer, add("on_train_start"), f"--ckpt_path={run}")
    assert not seen
    fit("mini_stage1", *PLAIN, *longer, add("on_fit_start"), f"--ckpt_path={run}")
    assert len(seen) == 2


def test_weights_alone_are_no_place_to_go_on_from(fit, tmp_path):
    run = fit("mini_stage1", *PLAIN, callbacks(2, ", save_weights_only: true"))
    file = next((run / "checkpoints").glob("epoch=*.ckpt"))
    with pytest.raises(ValueError, match=r"ckpt holds weights and no optimizer_states, .*start from its weights"):
        fit("mini_stage1", *PLAIN, f"--ckpt_path={file}")
    fit("mini_stage1", *PLAIN, f"--model.init_from={run}", "--trainer.max_steps=2")


def test_a_run_that_has_ended_says_that_nothing_is_left_to_do(fit, stage1_run, seen):
    with pytest.warns(UserWarning, match="last.ckpt stands at step 4 of 4: nothing is trained or validated"):
        fit("mini_stage1", f"--ckpt_path={stage1_run}")
    assert not seen


@pytest.mark.parametrize(("name", "was", "now"), [("batch_size", 8, 4), ("seed", 0, 3), ("group", 2, 1)])
def test_rows_in_another_order_are_no_place_to_go_on_from(fit, stage1_run, seen, name, was, now):
    with pytest.raises(
        ValueError, match=rf"last.ckpt was trained with .* other rows .*: data.{name} {was}, here {now}\. Use"
    ):
        fit("mini_stage1", f"--data.{name}={now}", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}")
    assert not seen
    fit("mini_stage1", f"--data.{name}={now}", "--trainer.max_steps=2", f"--model.init_from={stage1_run}")


@pytest.mark.parametrize(("name", "now"), [("qformer.dropout", "0.5"), ("itg.label_smoothing", "0.3")])
def test_a_run_that_would_train_otherwise_than_it_began_does_not_go_on(fit, stage1_run, seen, name, now):
    with pytest.raises(ValueError, match=rf"train otherwise than it began: model\.net\.{name} .*, here {now}\. Use"):
        fit("mini_stage1", f"--model.net.{name}={now}", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}")
    assert not seen


@pytest.mark.parametrize("fewer", [True, False])
def test_a_file_of_other_rows_under_the_same_name_is_no_place_to_go_on_from(
    fit, stage1_run, seen, world, tmp_path, fewer
):
    """Fewer images, or the same in another order."""
    moved = shutil.copytree(world, tmp_path / "moved")
    file = moved / "annotations/captions_train.json"
    content = json.loads(file.read_text())
    content["images"] = content["images"][2:] if fewer else content["images"][::-1]
    kept = {each["id"] for each in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    file.write_text(json.dumps(content))
    more = [f"--data.root={moved}", "--data.features=null", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}"]
    with pytest.raises(ValueError, match=r"other rows would come .*: data 24 rows \(.*, here 2\d rows \("):
        fit("mini_stage1", *more, runs=tmp_path)
    assert not seen


def test_a_trial_of_two_batches_leaves_nothing(fit, seen, tmp_path):
    short = ["--trainer.fast_dev_run=2", "--trainer.callbacks=null", f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(ValueError, match="empty"):  # there is no folder to give
        fit("mini_stage1", *PLAIN, *short, runs=tmp_path)
    assert len(seen) == 2 and not list(tmp_path.rglob("*"))


def test_a_test_of_no_batches_is_refused(fit, stage1_run, own_copy):
    with pytest.raises(ValueError, match=r"trainer\.limit_test_batches=0: nothing would be evaluated"):
        fit("mini_stage1", "--trainer.limit_test_batches=0", f"--ckpt_path={own_copy(stage1_run)}", command="test")


def test_a_run_that_goes_back_in_its_own_folder_sets_later_checkpoints_aside(fit, tmp_path, caplog):
    """They would be taken for the run's newest."""
    same = ["--model.net.itm=null", "--model.net.itg=null", "--trainer.logger.version=version_0"]
    run = fit("mini_stage1", *same, runs=tmp_path)
    middle, later = (next((run / "checkpoints").glob(f"*step={step}.ckpt")) for step in (2, 4))
    less = ["--trainer.limit_val_batches=0", "--trainer.max_steps=3"]
    fit("mini_stage1", *same, *less, f"--ckpt_path={middle}", runs=tmp_path)
    assert f"{later} is of a later step than 2, where this run goes on: it is now {later}.left" in caplog.text
    assert step_of(run) == 3 and later.with_name(f"{later.name}.left").exists()


def test_a_training_that_ends_before_its_last_step_says_so(fit):
    short = ["--trainer.limit_train_batches=3", "--trainer.max_epochs=1", "--trainer.val_check_interval=3"]
    with pytest.warns(UserWarning, match=r"the training ends at step 3 of 4: a limit of the trainer"):
        fit("mini_stage1", *PLAIN, *short)


def test_a_schedule_that_changes_is_told(fit, stage1_run, seen, caplog):
    fit("mini_stage1", "--model.optimization.min_lr=1e-6", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}")
    assert "changes from its step on: max_steps 4, here 6; min_lr" in caplog.text and len(seen) == 2


def test_a_setting_that_is_null_on_one_side_has_changed():
    assert _changed({"w.a": 3, "w.b": 1, "x": 1}, {"w": None, "x": 1}) == [
        "w {'w.a': 3, 'w.b': 1}, here None", "w.a 3, here None", "w.b 1, here None",
    ]  # fmt: skip
    assert _changed({"a": 1, "b.c": 2}, {"b.c": 2, "d": 1}) == []


def test_a_run_goes_on_where_its_data_lie_now(fit, stage1_run, seen, world, tmp_path):
    moved = shutil.copytree(world, tmp_path / "moved")
    fit("mini_stage1", f"--data.root={moved}", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}", runs=tmp_path)
    assert [step for step, *_ in seen] == [4, 5]


@pytest.mark.parametrize("name", ["WeightAveraging", "EMAWeightAveraging", "StochasticWeightAveraging"])
def test_averages_that_a_checkpoint_would_hold_as_weights_are_refused(fit, name):
    rates = "init_args: {swa_lrs: 0.1, swa_epoch_start: 1}" if name.startswith("Stoch") else "init_args: {}"
    with pytest.raises(ValueError, match=f"{name} .*use lit_blip2.lit.callbacks.EMA"):
        fit("mini_stage1", *PLAIN, f"--trainer.callbacks+={{class_path: {name}, {rates}}}")


@pytest.mark.parametrize("name", ["LearningRateFinder", "BatchSizeFinder"])
def test_trials_before_the_first_step_are_refused(fit, name):
    with pytest.raises(ValueError, match=f"{name} trains for a trial before step 0"):
        fit("mini_stage1", f"--trainer.callbacks+={name}")


def test_a_learning_rate_that_a_resumed_optimiser_would_not_take_is_refused(fit, stage1_run, seen):
    with pytest.raises(ValueError, match=r"other settings, which its optimiser goes on with: lr .*, here 0\.5"):
        fit("mini_stage1", "--model.optimization.lr=0.5", "--trainer.max_steps=6", f"--ckpt_path={stage1_run}")
    assert not seen


def test_a_requeued_run_goes_on_and_no_other_takes_its_checkpoint(fit, seen, monkeypatch, tmp_path):
    """Lightning finds the checkpoint by itself, in a folder that runs share."""
    where = [*PLAIN, f"--trainer.default_root_dir={tmp_path}", "--trainer.devices=1"]
    first = fit("mini_stage1", *where, callbacks(2), runs=tmp_path / "runs")
    shutil.copy(next((first / "checkpoints").glob("*step=2.ckpt")), tmp_path / "hpc_ckpt_1.ckpt")
    for name, value in {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "7", "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    seen.clear()
    fit("mini_stage1", *where, callbacks(2), runs=tmp_path / "runs")
    assert [step for step, *_ in seen] == [2, 3]
    with pytest.raises(ValueError, match=r"hpc_ckpt_1.ckpt lies where a requeued run looks .* of another run: remove"):
        fit("mini_stage1", *where, callbacks(2), "--seed_everything=1", runs=tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 0) for name in INTERVALS] + [("val_check_interval", -1), ("limit_train_batches", 0.0)],
)
def test_numbers_of_a_trainer_by_which_nothing_is_trained_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"^trainer\.{name}={value}: training needs numbers above 0; leave one out"):
        check_intervals(SimpleNamespace(**{name: value}))


def test_a_trainers_own_numbers_are_taken():
    check_intervals(L.Trainer(accelerator="cpu", logger=False, max_steps=2, barebones=False))
    check_intervals(SimpleNamespace(max_epochs=-1, val_check_interval="00:15:00", limit_train_batches=None))
