"""Fine-tuning on the small world: what trains, what it starts from, and that the loss falls."""

import json
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lit_blip2.checkpoint import is_text_half, read_checkpoint
from lit_blip2.lit.callbacks.ema import EMA

pytestmark = pytest.mark.filterwarnings("ignore")
STILL = ["--model.optimization.lr=1e-12", "--model.optimization.min_lr=0", "--trainer.max_steps=2"]


def losses(run) -> list[float]:
    """loss/lm, or loss/total, of each validation."""
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    return [line.get("loss/total", line.get("loss/lm")) for line in lines]


def test_captioning_trains_the_encoder_too_and_its_loss_falls(fit, stage2_run):
    run = fit("mini_caption", f"--model.init_from={stage2_run}", "--trainer.max_steps=12")
    before, after = losses(run)[0], losses(run)[-1]
    assert after < before
    assert any(key.startswith("net.vision.") for key in read_checkpoint(run)["state_dict"])


@pytest.mark.slow
def test_retrieval_has_no_captioning_head_and_its_loss_falls(fit, stage1_run):
    run = fit("mini_retrieval", f"--model.init_from={stage1_run}", "--trainer.max_steps=12")
    assert losses(run)[-1] < losses(run)[0]
    metrics = json.loads((run / "metrics.json").read_text())
    assert "retrieval/itm_txt_r1" in metrics and "loss/itg" not in metrics


def test_vqa_starts_from_stage_2_with_the_text_half_of_stage_1(fit, stage1_run, stage2_run):
    run = fit("mini_vqa", f"--model.init_from={stage2_run}", f"--model.text_from={stage1_run}", *STILL)
    ours, query, text = (read_checkpoint(each)["state_dict"] for each in (run, stage2_run, stage1_run))
    own = {key.removeprefix("net.bridge.qformer."): v for key, v in ours.items() if "bridge.qformer." in key}
    words = [key for key in own if is_text_half(key)]
    assert words and len(own) > len(words)
    for key, value in own.items():
        expected = text[f"net.qformer.{key}"] if key in words else query[f"net.bridge.qformer.{key}"]
        assert torch.allclose(value, expected, atol=1e-6), key


@pytest.mark.slow
def test_vqa_learns_the_answers_it_is_given(fit, stage1_run):
    """With the frozen mini OPT, whose answers can be had. The first loss is that of the start."""
    mini = "lit_blip2/mini/weights/opt"
    stage2 = fit("mini_opt", f"--model.init_from={stage1_run}", language=mini)
    start = [f"--model.init_from={stage2}", f"--model.text_from={stage1_run}", "--data.batch_size=16"]
    lengths = [[f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}"] for steps in (2, 20)]
    runs = [fit("mini_vqa", *start, *length, language=mini) for length in lengths]
    early, late = (json.loads((run / "metrics.json").read_text()) for run in runs)
    assert late["train/loss_lm"] < 0.7 * early["train/loss_lm"]
    assert "vqa/accuracy" in late and "caption/cider" not in late


def test_the_text_half_is_asked_for_and_refused_by_name(fit, stage1_run, stage2_run):
    with pytest.raises(ValueError, match=r"no text half, and this bridge reads prompts.*text_from=RUN"):
        fit("mini_vqa", f"--model.init_from={stage2_run}", "--model.text_from=null")
    with pytest.raises(ValueError, match="is for a bridge that reads prompts"):
        fit("mini_opt", f"--model.init_from={stage2_run}", f"--model.text_from={stage1_run}")
    first = fit("mini_vqa", f"--model.init_from={stage2_run}", f"--model.text_from={stage1_run}", *STILL)
    with pytest.raises(ValueError, match="init_from has a text half of its own"):
        fit("mini_vqa", f"--model.init_from={first}", f"--model.text_from={stage1_run}")


def test_stage_1_refuses_questions(fit, world):
    data = (
        "{class_path: lit_blip2.data.questions.VQA, init_args: {train: {questions: annotations/questions_train.json, "
    )
    data += "annotations: annotations/answers_train.json, images: annotations/captions_train.json}, image_size: 64}}"
    with pytest.raises(ValueError, match="these data are questions: use a stage-2 experiment"):
        fit("mini_stage1", f"--data={data}", f"--data.root={world}", "--data.features=null")


def test_the_moving_average_is_what_a_checkpoint_holds_and_resuming_is_exact(fit, stage1_run):
    """Against averages taken by hand from the weights of every step."""
    callbacks = "--trainer.callbacks+={class_path: lit_blip2.lit.callbacks.ema.EMA, init_args: {decay: 0.5}}"
    start = f"--model.init_from={stage1_run}"
    each_step = "--trainer.callbacks+={class_path: ModelCheckpoint, init_args: {save_top_k: -1, every_n_train_steps: 1, filename: 'at-{step}'}}"  # noqa: E501
    run = fit("mini_stage1", start, callbacks, each_step)
    kept = {step: read_checkpoint(run / "checkpoints" / f"at-step={step}.ckpt") for step in range(1, 5)}
    name = "net.qformer.query_tokens"
    average = read_checkpoint(stage1_run)["state_dict"][name]
    for checkpoint in kept.values():
        (weights,) = [each["weights"] for key, each in checkpoint["callbacks"].items() if key.startswith("EMA")]
        average = 0.5 * average + 0.5 * weights[name]
        assert torch.allclose(checkpoint["state_dict"][name], average, atol=1e-7)
    resumed = fit("mini_stage1", callbacks, f"--ckpt_path={run}/checkpoints/at-step=2.ckpt")
    found = read_checkpoint(resumed)["state_dict"]
    assert all(torch.equal(found[key], value) for key, value in kept[4]["state_dict"].items())


def test_the_average_of_accumulated_steps_resumes_exactly(fit, stage1_run):
    """A micro-batch is no step, least of all the first after resuming."""
    ema = "--trainer.callbacks+={class_path: lit_blip2.lit.callbacks.ema.EMA, init_args: {decay: 0.5}}"
    twice = [ema, "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=4"]
    whole = fit("mini_stage1", f"--model.init_from={stage1_run}", *twice)
    middle = next((whole / "checkpoints").glob("*step=2.ckpt"))
    expected, found = (read_checkpoint(run) for run in (whole, fit("mini_stage1", *twice, f"--ckpt_path={middle}")))
    assert all(torch.equal(found["state_dict"][key], value) for key, value in expected["state_dict"].items())


@pytest.mark.slow
def test_validation_sees_the_average(fit, stage1_run):
    """An average that hardly moves validates as the start does."""
    slow = "--trainer.callbacks+={class_path: lit_blip2.lit.callbacks.ema.EMA, init_args: {decay: 0.999999}}"
    start = f"--model.init_from={stage1_run}"
    averaged, plain = losses(fit("mini_stage1", start, slow)), losses(fit("mini_stage1", start))
    still = losses(fit("mini_stage1", start, *STILL))
    assert averaged[-1] == pytest.approx(still[-1], abs=1e-4) and abs(plain[-1] - still[-1]) > 1e-3


class SaveInValidation(L.Callback):
    """Saves wherever a signal could in the validation of step 2, whose last batch then fails."""

    def __init__(self, folder: str):
        self.folder, self.saved = folder, 0

    def on_validation_start(self, trainer, *_):
        trainer.save_checkpoint(f"{self.folder}/{trainer.global_step}-{self.saved}.ckpt")
        self.saved += 1

    on_validation_batch_start = on_validation_batch_end = on_validation_epoch_end = on_validation_start

    def on_validation_end(self, trainer, *_):
        self.on_validation_start(trainer)
        if trainer.global_step == 4:
            raise RuntimeError("a power cut")


@pytest.mark.slow
def test_a_checkpoint_holds_the_average_whenever_it_is_written(fit, stage1_run, tmp_path):
    ema = "{class_path: lit_blip2.lit.callbacks.ema.EMA, init_args: {decay: 0.5}}"
    saves = f"{{class_path: tests.lit.test_fine_tuning.SaveInValidation, init_args: {{folder: {tmp_path}}}}}"
    last = "{class_path: ModelCheckpoint, init_args: {save_last: true, every_n_train_steps: 2, save_top_k: -1}}"
    start = ["--model.net.itm=null", "--model.net.itg=null", f"--trainer.callbacks=[{ema}, {last}]"]
    whole = fit("mini_stage1", *start)
    with pytest.raises(RuntimeError, match="a power cut"):
        fit("mini_stage1", *start, f"--trainer.callbacks+={saves}")
    for step in (2, 4):
        expected = read_checkpoint(next((whole / "checkpoints").glob(f"*step={step}.ckpt")))
        files = list(tmp_path.glob(f"{step}-*.ckpt"))
        assert len(files) > 5
        for found in map(read_checkpoint, files):
            for held in ("state_dict", "weights"):
                ours, theirs = ((each | each["callbacks"]["EMA"])[held] for each in (expected, found))
                assert all(torch.equal(theirs[key], each) for key, each in ours.items()), held
    resumed = fit("mini_stage1", *start, f"--ckpt_path={next(tmp_path.glob('2-*.ckpt'))}")
    expected, found = (read_checkpoint(run)["state_dict"] for run in (whole, resumed))
    assert all(torch.equal(found[key], each) for key, each in expected.items())
    with pytest.raises(ValueError, match="are the averages of the callback EMA: resume with it"):
        fit("mini_stage1", *start[:2], f"--ckpt_path={resumed}")


def test_a_step_that_a_checkpoint_has_and_its_average_lacks_is_made_up_for():
    """A signal can come between the two."""
    module, ema = L.LightningModule(), EMA(decay=0.5)
    module.weight = torch.nn.Parameter(torch.tensor([0.0]))  # the average, as the checkpoint has it
    ema.load_state_dict({"weights": {"weight": torch.tensor([8.0])}, "steps": 6})
    trainer = SimpleNamespace(global_step=7)
    ema.on_fit_start(trainer, module)
    ema.on_train_start(trainer, module)
    assert module.averages["weight"].item() == 4 and module.weight.item() == 8 and ema.state_dict()["steps"] == 7
    ema.on_train_batch_end(trainer, module)
    assert module.averages["weight"].item() == 4
    ema.load_state_dict({"weights": {"weight": torch.tensor(8.0)}, "steps": 6})  # would be spread over all of it
    with pytest.raises(ValueError, match=r"what EMA kept of the weights does not fit .*weight is \(\)"):
        ema.on_fit_start(trainer, module)


def test_the_average_is_of_weights_wherever_they_are_put():
    """A callback may give a parameter other memory, as a clamp of `parameter.data` does, or another parameter."""
    module, ema, trainer = L.LightningModule(), EMA(decay=0.5), SimpleNamespace(global_step=0)
    module.weight = torch.nn.Parameter(torch.tensor([8.0]))
    ema.on_fit_start(trainer, module)
    ema.on_train_start(trainer, module)
    module.weight.data = torch.tensor([3.0])
    module.weight = torch.nn.Parameter(torch.tensor([2.0]))
    trainer.global_step = 1
    ema.on_train_batch_end(trainer, module)
    assert module.averages["weight"].item() == 5 and ema.state_dict()["weights"]["weight"].item() == 2
    trainer.state = SimpleNamespace(fn=TrainerFn.FITTING)
    ema.on_validation_start(trainer, module)
    assert module.weight.item() == 5 and ema.state_dict()["weights"]["weight"].item() == 2
    ema.on_validation_end(trainer, module)
    assert module.weight.item() == 2


class Freeze(L.Callback):
    """Freezes the Q-Former before training, and lets it train from a step on."""

    def __init__(self, until: int = 1000):
        self.until = until

    def setup(self, trainer, pl_module, stage):
        pl_module.net.bridge.qformer.requires_grad_(False)

    def on_train_batch_start(self, trainer, pl_module, *_):
        if trainer.global_step == self.until:
            pl_module.net.bridge.qformer.requires_grad_(True)


def test_what_a_callback_freezes_is_kept_in_checkpoints(fit, stage1_run):
    """The projection alone trains: the Q-Former of the start must not be another one in `validate`."""
    freeze = "--trainer.callbacks+={class_path: tests.lit.test_fine_tuning.Freeze}"
    run = fit("mini_opt", f"--model.init_from={stage1_run}", freeze)
    kept, start = (read_checkpoint(each)["state_dict"] for each in (run, stage1_run))
    name = "qformer.query_tokens"
    assert torch.equal(kept[f"net.bridge.{name}"], start[f"net.{name}"])
    fit("mini_opt", freeze, f"--ckpt_path={run}", command="validate", runs=run.parents[1])
    found = json.loads((run / "validate.json").read_text())["loss/lm"]
    assert found == pytest.approx(losses(run)[-1], rel=1e-6)


def test_the_average_holds_what_is_freed_later(fit, stage1_run):
    ema = "{class_path: lit_blip2.lit.callbacks.ema.EMA, init_args: {decay: 0.5}}"
    free = "{class_path: tests.lit.test_fine_tuning.Freeze, init_args: {until: 2}}"
    run = fit(
        "mini_opt", f"--model.init_from={stage1_run}", f"--trainer.callbacks+={ema}", f"--trainer.callbacks+={free}"
    )
    assert "net.bridge.qformer.query_tokens" in read_checkpoint(run)["state_dict"]


def test_a_decay_that_is_none_is_refused():
    with pytest.raises(ValueError, match="decay=1 must lie between 0 and 1"):
        EMA(decay=1)
