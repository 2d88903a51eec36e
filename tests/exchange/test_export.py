"""Runs become folders of transformers and files of LAVIS; coming back they are what they were."""

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
)

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands.convert import main
from lit_blip2.data.transforms import eval_view
from lit_blip2.exchange.run import checkpoint
from lit_blip2.inference import load
from lit_blip2.pixels import CLIP_MEAN, CLIP_STD, normalise
from tests.exchange.tiny import BERT, IMAGES, load_stage1, randomise, same, saved


@pytest.fixture(params=["opt", "t5"])
def family(request):
    return request.param


@pytest.fixture
def run(generation, family, tmp_path):
    """A run of stage 2, which came from transformers."""
    folder, out = generation[family][1], tmp_path / "run"
    assert main("import", [str(folder), "--from=hf", f"--out={out}", f"--config=experiments/mini_{family}.yaml"]) == 0
    return out


@torch.no_grad()
def test_from_pretrained_says_what_the_run_says(run, family, tmp_path, capsys):
    out = tmp_path / "hf"
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={out}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "from bridge.qformer.layers.*.attention.qkv.weight" in said and "no place there" not in said
    assert "from blocks.*.attn.q_bias" in said and "the language model's own" in said
    model, report = Blip2ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor = Blip2Processor.from_pretrained(out)
    photo = Image.effect_noise((20, 12), 80).convert("RGB")
    net = load(run).net
    given = processor(images=photo, text="what shape ?", return_tensors="pt")
    grey_level = 1.01 / 255 / min(CLIP_STD)  # torchvision, with which it resizes, rounds otherwise than Pillow
    ours = normalise(eval_view(photo, 8)[None], CLIP_MEAN, CLIP_STD)
    torch.testing.assert_close(given["pixel_values"], ours, rtol=0, atol=grey_level)
    ids_BT = model.eval().generate(**given, max_new_tokens=5, do_sample=False, num_beams=1)
    new_BT = ids_BT if family == "t5" else ids_BT[:, given["input_ids"].shape[1] :]
    words = processor.batch_decode(new_BT, skip_special_tokens=True)[0].strip()
    prefix_BPD = net.bridge(net.vision(given["pixel_values"]))
    assert net.language.generate(prefix_BPD, ["what shape ?"], max_new_tokens=5, num_beams=1) == [words] and words
    again = tmp_path / "again"
    assert main("import", [str(out), "--from=hf", f"--out={again}", f"--config=experiments/mini_{family}.yaml"]) == 0
    assert same(run, again)


def test_lavis_and_back_is_equal_to_the_last_bit(run, family, tmp_path, capsys):
    file, again = tmp_path / "stage2.pth", tmp_path / "again"
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={file}"]) == 0
    keys = torch.load(file, weights_only=True)["model"].keys()
    assert {f"{family}_proj.weight", "query_tokens", "visual_encoder.blocks.1.attn.q_bias"} <= keys
    assert "Qformer.bert.encoder.layer.2.attention.self.key.weight" in keys
    config = run / "version_0" / "config.yaml"
    assert main("import", [str(file), "--from=lavis", f"--out={again}", f"--config={config}"]) == 0
    said = capsys.readouterr().out
    assert "Qformer.bert.encoder.layer.*.crossattention.self.value.weight" in said and "the encoder's pos_embed" in said
    assert same(run, again)
    settings = yaml.safe_load((again / "version_0/config.yaml").read_text())
    net = settings["model"]["init_args"]["net"]
    assert settings["data"]["init_args"]["image_size"] == net["vision"]["model_args"]["img_size"] == 8
    assert net["vision"]["weights"] == str(again / "weights/vision.safetensors")


@pytest.fixture
def stage1_run(hf_config, tmp_path):
    """A run of stage 1 with all that Hugging Face's class has no place for: a temperature and ITG's head."""
    words = len(AutoTokenizer.from_pretrained(BERT))
    sized = hf_config | {"qformer_config": hf_config["qformer_config"] | {"vocab_size": words}}
    model = randomise(Blip2ForImageTextRetrieval(Blip2Config(**sized, image_text_hidden_size=12)))
    folder, out = saved(model, BERT, tmp_path / "theirs"), tmp_path / "run"
    assert main("import", [str(folder), "--from=hf", f"--out={out}", "--config=experiments/mini_stage1.yaml"]) == 0
    file = out / "version_0/checkpoints/last.ckpt"
    contents = read_checkpoint(file)
    config = yaml.safe_load(contents["config"])
    config["model"]["init_args"]["net"]["itg"] = {}
    shapes = {"transform.weight": (24, 24), "transform.bias": (24,), "norm.weight": (24,), "norm.bias": (24,)}
    head = {f"net.itg.{name}": torch.randn(shape) for name, shape in (shapes | {"bias": (words,)}).items()}
    state = contents["state_dict"] | head | {"net.itc.temperature": torch.tensor(0.05)}
    torch.save(checkpoint(state, yaml.safe_dump(config), contents["settings"]), file)
    (out / "version_0/config.yaml").write_text(yaml.safe_dump(config))
    return out


def test_stage_1_keeps_what_hugging_face_drops_beside_it(stage1_run, tmp_path, capsys):
    out, again = tmp_path / "hf", tmp_path / "again"
    assert main("export", [f"--checkpoint={stage1_run}", "--to=hf", f"--out={out}"]) == 0
    assert "no place there: in lit_blip2.safetensors" in " ".join(capsys.readouterr().out.split())
    assert len(load_file(out / "lit_blip2.safetensors")) == 6
    _, report = Blip2ForImageTextRetrieval.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    Blip2Processor.from_pretrained(out)
    config = "--config=experiments/mini_stage1.yaml"
    assert main("import", [str(out), "--from=hf", f"--out={again}", config]) == 0
    assert same(stage1_run, again)


def test_stage_1_says_the_same_after_both_ways(stage1_run, tmp_path):
    """transformers' processor adds a word to the tokenizer, which must not keep the run from loading."""
    out, again = tmp_path / "hf", tmp_path / "again"
    assert main("export", [f"--checkpoint={stage1_run}", "--to=hf", f"--out={out}"]) == 0
    assert main("import", [str(out), "--from=hf", f"--out={again}", "--config=experiments/mini_stage1.yaml"]) == 0
    found = []
    for run in (stage1_run, again):
        net, _ = load_stage1(run)
        net.load()
        texts = net.tokenizer(["a red ring", "a blue star"])
        with torch.no_grad():
            query_BQP, image = net.encode_images(net.vision(IMAGES))
            found.append((query_BQP, net.match_logits(image, texts)))
    assert all(torch.equal(one, two) for one, two in zip(*found))


@torch.no_grad()
def test_a_trained_language_model_goes_along(run, family, tmp_path, capsys):
    file = run / "version_0/checkpoints/last.ckpt"
    contents = read_checkpoint(file)
    config = yaml.safe_load(contents["config"])
    config["model"]["init_args"]["net"]["language"] |= {"frozen": False, "dtype": "float32"}
    language = load(run).net.language.model
    own = {f"net.language.model.{name}": 1.1 * value for name, value in language.named_parameters()}
    torch.save(checkpoint(contents["state_dict"] | own, yaml.safe_dump(config), contents["settings"]), file)
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 0
    model = Blip2ForConditionalGeneration.from_pretrained(tmp_path / "hf")
    for name, value in model.language_model.named_parameters():
        trained = own[f"net.language.model.{name}"]
        torch.testing.assert_close(value[: len(trained)], trained)
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={tmp_path / 'x.pth'}"]) == 2
    assert "has no place in LAVIS" in capsys.readouterr().err


def test_stage_1_goes_to_lavis_and_back(stage1_run, tmp_path):
    file, again = tmp_path / "stage1.pth", tmp_path / "again"
    assert main("export", [f"--checkpoint={stage1_run}", "--to=lavis", f"--out={file}"]) == 0
    keys = torch.load(file, weights_only=True)["model"].keys()
    assert {"temp", "itm_head.weight", "Qformer.cls.predictions.decoder.weight"} <= keys
    config = f"--config={stage1_run / 'version_0/config.yaml'}"
    assert main("import", [str(file), "--from=lavis", f"--out={again}", config]) == 0
    assert same(stage1_run, again)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.pth", "--from=lavis", "--out=x"], "no file nothing.pth"),
        (["nowhere", "--from=hf", "--out=x"], "config.json is missing"),
        (["odd.pth", "--from=lavis", "--out=x"], "no experiment has ln_vision of 5 and opt_proj to 7: name one"),
        (
            ["odd.pth", "--from=lavis", "--out=x", "--config=experiments/mini_opt.yaml"],
            "odd.pth holds surprise (1 such)",
        ),
    ],
)
def test_what_cannot_be_imported_ends_with_the_reason(arguments, words, capsys, tmp_path):
    state = {"opt_proj.weight": torch.ones(7, 3), "ln_vision.weight": torch.ones(5), "surprise": torch.ones(1)}
    torch.save({"model": state}, tmp_path / "odd.pth")
    arguments = [each.replace("odd.pth", str(tmp_path / "odd.pth")) for each in arguments]
    assert main("import", arguments) == 2
    assert words in capsys.readouterr().err
