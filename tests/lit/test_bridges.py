"""Each bridge in a short run of stage 2, and the start that only a Q-Former has."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.exchange.export import to_hugging_face, to_lavis
from lit_blip2.model.matryoshka import MatryoshkaBridge
from lit_blip2.runs import find_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}
BRIDGES = {
    "bridge.LinearBridge": {},
    "bridge.MLPBridge": {"hidden": 8},
    "bridge.ResamplerBridge": SMALL,
    "abstractor.AbstractorBridge": {"hidden": 8, "layers": 1},
    "shuffle.ShuffleBridge": {"side": 8},
}
MATRYOSHKA = "--model.net.bridge=lit_blip2.model.matryoshka.MatryoshkaBridge"


def chosen(name: str) -> list[str]:
    arguments = {"num_tokens": 4, "projection_std": None} | BRIDGES[name]
    bridge = {"class_path": f"lit_blip2.model.{name}", "init_args": arguments}
    return ["--model.init_from=null", f"--model.net.bridge={json.dumps(bridge)}"]


@pytest.mark.parametrize("name", BRIDGES)
def test_a_run_with_another_bridge_trains_answers_and_is_drawn(name, fit):
    """All callbacks of a run are on: pictures show samples, and no attention where no Q-Former is."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fit(
        "mini_opt", *chosen(name), "--trainer.val_check_interval=4", "--model.caption_max_new_tokens=5", pictures=True
    )
    steps = read_checkpoint(next((run / "checkpoints").glob("*step=2.ckpt")))["state_dict"]
    last = read_checkpoint(run)["state_dict"]
    assert last.keys() and all(key.startswith("net.bridge.") for key in last)
    assert not any((last[key] == value).all() for key, value in steps.items())
    assert json.loads((run / "metrics.json").read_text()).keys() >= {"loss/lm", "vqa/accuracy", "caption/cider"}
    events = EventAccumulator(str(run))
    events.Reload()
    assert events.Tags()["images"] == ["val/samples"]
    hparams = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert name.partition(".")[2].encode() in hparams


def test_a_matryoshka_trains_once_and_is_tested_with_any_number_of_queries(fit, stage1_run, tmp_path, monkeypatch):
    """Each step trains with the number that its seed and step draw; validations take all."""
    used, forward = [], MatryoshkaBridge.forward
    monkeypatch.setattr(
        MatryoshkaBridge, "forward", lambda self, x, first=None: used.append((self, first)) or forward(self, x, first)
    )
    asked = [f"--model.init_from={stage1_run}", MATRYOSHKA]
    run = fit("mini_opt", *asked)
    bridge, trained = used[0][0], [first for _, first in used if first is not None]
    assert trained == [bridge.draw(0, step) for step in range(4)] and len(set(trained)) > 1
    tested = [*asked, f"--ckpt_path={run}"]
    with pytest.raises(ValueError, match=r"other settings: bridge\.first null, here 2\."):
        fit("mini_opt", *tested, "--model.net.bridge.first=2", command="test")
    allowed = ["--model.net.bridge.first=2", "--model.allow_different=[first]"]
    fit("mini_opt", *tested, *allowed, command="test", runs=run.parent.parent)
    assert (run / "predictions.jsonl").exists() and used[-1][0].first == 2
    for export in (to_hugging_face, to_lavis):
        with pytest.raises(ValueError, match="has a MatryoshkaBridge, and the classes of other projects have no other"):
            export(run, tmp_path / "out")


def test_patches_beside_queries_start_from_stage_1(fit, stage1_run):
    bridge = "--model.net.bridge=lit_blip2.model.bliva.BlivaBridge"
    still = ["--model.optimization.lr=1e-12", "--model.optimization.min_lr=0"]
    run = fit("mini_opt", f"--model.init_from={stage1_run}", bridge, *still, "--model.caption_max_new_tokens=5")
    first, ours = read_checkpoint(stage1_run)["state_dict"], read_checkpoint(run)["state_dict"]
    taken = {key for key in ours if key.startswith("net.bridge.qformer.")}
    assert {key.split(".")[2] for key in ours.keys() - taken} == {"projection", "projection_patches"}
    for key in taken:
        torch.testing.assert_close(ours[key], first[key.replace("net.bridge.", "net.")], rtol=0, atol=1e-6)
    assert json.loads((run / "metrics.json").read_text()).keys() >= {"loss/lm", "vqa/accuracy", "caption/cider"}


def test_windows_are_those_of_stage_1_and_have_no_place_elsewhere(fit, stage1_run, tmp_path):
    windows = "--model.net.bridge.qformer.windows=true"
    with pytest.raises(ValueError, match=r"bridge\.qformer\.windows False, here True"):
        fit("mini_opt", f"--model.init_from={stage1_run}", windows)
    run = fit("mini_opt", "--model.init_from=null", windows)
    for export in (to_hugging_face, to_lavis):
        with pytest.raises(ValueError, match="has a Q-Former with windows=true, and in the classes of other projects"):
            export(run, tmp_path / "out")


def test_a_bridge_from_a_file_of_overrides(fit, tmp_path):
    """As an ablation writes it; the command line then changes one argument. A test of the run finds it again."""
    bridge = {"class_path": "lit_blip2.model.bridge.LinearBridge", "init_args": {"num_tokens": 64}}
    file = tmp_path / "cell.yaml"
    file.write_text(json.dumps({"model": {"init_args": {"init_from": None, "net": {"init_args": {"bridge": bridge}}}}}))
    chosen = [f"--config={file}", "--model.net.bridge.num_tokens=4"]
    run = fit("mini_opt", *chosen)
    config = read_checkpoint(run)["config"]
    assert "num_tokens: 4" in config and "num_queries" not in config
    fit("mini_opt", *chosen, f"--ckpt_path={run}", command="test", runs=run.parent.parent)
    assert (run / "predictions.jsonl").exists()
    with pytest.raises(ValueError, match=r"other settings: bridge\.num_tokens 4, here 16"):
        fit("mini_opt", chosen[0], f"--ckpt_path={run}", "--model.net.bridge.num_tokens=16", command="test")


def test_tokens_that_the_patches_do_not_give_are_refused(fit):
    with pytest.raises(ValueError, match="num_tokens=31 would be 1 x 31 boxes on 8 x 8 patches"):
        fit("mini_opt", *chosen("bridge.LinearBridge"), "--model.net.bridge.num_tokens=31")


@pytest.mark.parametrize("start", ["init_from", "bert"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_start_for_a_q_former_is_refused_without_one(start, command, fit, stage1_run):
    message = rf"{start}='.*' is what a Q-Former starts from, and MLPBridge has none: --model\.{start}=null"
    checkpoint = [] if command == "fit" else [f"--ckpt_path={stage1_run}"]
    with pytest.raises(ValueError, match=message):
        fit("mini_opt", *chosen("bridge.MLPBridge"), f"--model.{start}=somewhere", *checkpoint, command=command)


def test_a_bridge_that_reads_the_prompt_starts_from_stage_1s_words_and_answers(fit, stage1_run):
    """All of stage 1's text half is taken over but the last layer's feed-forward, which nobody would read."""
    config = yaml.safe_load(read_checkpoint(stage1_run)["config"])["model"]["init_args"]["net"]
    config = config.get("init_args", config)
    bridge = {
        "class_path": "lit_blip2.model.instructed.InstructedBridge",
        "init_args": {"qformer": config["qformer"], "tokenizer": config["tokenizer"], "max_text_tokens": 20},
    }
    chosen = [f"--model.init_from={stage1_run}", f"--model.net.bridge={json.dumps(bridge)}"]
    with pytest.raises(ValueError, match=r"prompt is empty, and the bridge reads it beside each image"):
        fit("mini_opt", *chosen)
    still = ["--model.optimization.lr=1e-12", "--model.optimization.min_lr=0", "--model.question={} answer :"]
    run = fit("mini_opt", *chosen, "--model.net.prompt=a", *still, "--model.in_context=1")
    words, ours = read_checkpoint(stage1_run)["state_dict"], read_checkpoint(run)["state_dict"]
    taken = {key.replace("net.bridge.", "net.") for key in ours if ".qformer." in key}
    assert {key for key in words if ".qformer." in key} - taken == {
        f"net.qformer.layers.2.text_mlp.{part}.{kind}"
        for part in ("expand", "output", "norm")
        for kind in ("weight", "bias")
    }
    for key in taken:
        torch.testing.assert_close(ours[key.replace("net.", "net.bridge.")], words[key], rtol=0, atol=1e-6)
    assert json.loads((run / "metrics.json").read_text()).keys() >= {"loss/lm", "vqa/accuracy", "caption/cider"}
    fit(
        "mini_opt",
        *chosen,
        "--model.net.prompt=a",
        *still,
        f"--ckpt_path={run}",
        command="test",
        runs=run.parent.parent,
    )
    assert (run / "predictions.jsonl").exists()


def test_stage_1_must_have_seen_as_many_blocks(fit, stage1_run):
    """All of three blocks, as an imported encoder has them, are the first three of four."""
    start, all_blocks = f"--model.init_from={stage1_run}", "--model.net.vision.drop_last_blocks=0"
    with pytest.raises(ValueError, match=r"vision\.blocks 3, here 4"):
        fit("mini_opt", start, all_blocks, "--data.features=null")
    sizes = "{img_size: 64, patch_size: 2, embed_dim: 128, num_heads: 4, depth: 3}"
    fit("mini_opt", start, all_blocks, f"--model.net.vision.model_args={sizes}", "--data.features=null")


def test_a_language_model_that_can_make_no_answers_ends_a_run_before_its_first_step(fit, opt_folder, tmp_path):
    """Only where captions or answers are evaluated: without a validation it is trained."""
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, mamba_d_ssm=16)
    sizes |= dict(num_key_value_heads=2, mamba_n_heads=2, mamba_d_head=8, mamba_d_state=4, vocab_size=200)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon_h1", **sizes)).save_pretrained(tmp_path)
    for file in opt_folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    skipped = ["--model.init_from=null", "--trainer.max_steps=2"]
    with pytest.raises(ValueError, match=r"\(falcon_h1\) can be trained, and nothing that it generates is right"):
        fit("mini_opt", *skipped, language=tmp_path)
    with pytest.warns(UserWarning, match=r"\(falcon_h1\) can be trained"):
        run = fit("mini_opt", *skipped, "--trainer.limit_val_batches=0", language=tmp_path)
    assert find_checkpoint(run).exists()
