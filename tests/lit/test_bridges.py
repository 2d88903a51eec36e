"""Each bridge in a short run of stage 2, and the start that only a Q-Former has."""

import json
import shutil

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.runs import find_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 16}
BRIDGES = {"LinearBridge": {}, "MLPBridge": {"hidden": 8}, "ResamplerBridge": SMALL}


def chosen(name: str) -> list[str]:
    arguments = {"num_tokens": 6, "projection_std": None} | BRIDGES[name]
    bridge = {"class_path": f"lit_blip2.model.bridge.{name}", "init_args": arguments}
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
    assert name.encode() in events.summary_metadata["_hparams_/session_start_info"].plugin_data.content


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
        fit("mini_opt", *chosen("LinearBridge"), "--model.net.bridge.num_tokens=31")


@pytest.mark.parametrize("start", ["init_from", "bert"])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_start_for_a_q_former_is_refused_without_one(start, command, fit, stage1_run):
    message = rf"{start}='.*' is what a Q-Former starts from, and MLPBridge has none: --model\.{start}=null"
    checkpoint = [] if command == "fit" else [f"--ckpt_path={stage1_run}"]
    with pytest.raises(ValueError, match=message):
        fit("mini_opt", *chosen("MLPBridge"), f"--model.{start}=somewhere", *checkpoint, command=command)


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
