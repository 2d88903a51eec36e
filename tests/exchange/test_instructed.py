"""InstructBLIP from and to transformers' class and LAVIS' files: its Q-Former reads the prompt."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AutoTokenizer,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    T5Config,
)

from lit_blip2.commands.convert import main
from lit_blip2.inference import load
from tests.exchange.tiny import BERT, IMAGES, OPT, PROMPTS, T5, asked, randomise, same, saved

EXPERIMENTS = {"llama": Path("experiments/mini_opt.yaml"), "t5": Path("experiments/mini_t5.yaml")}


@pytest.fixture(scope="module")
def instructed(hf_config, tmp_path_factory):
    """family -> (model, its folder)."""
    made = {}
    words = {"llama": len(AutoTokenizer.from_pretrained(OPT)), "t5": len(AutoTokenizer.from_pretrained(T5))}
    languages = {
        "llama": LlamaConfig(
            vocab_size=words["llama"] + 1, hidden_size=16, num_hidden_layers=2, intermediate_size=24,
            num_attention_heads=2, max_position_embeddings=64,
        ),
        "t5": T5Config(
            vocab_size=words["t5"] + 1, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            decoder_start_token_id=0, tie_word_embeddings=False,
        ),
    }  # fmt: skip
    sizes = {key: value for key, value in hf_config["qformer_config"].items() if key in QFORMER_SIZES}
    sizes["vocab_size"] = len(AutoTokenizer.from_pretrained(BERT))
    vision = {key: value for key, value in hf_config["vision_config"].items() if key in VISION_SIZES}
    for family, tokenizer in (("llama", OPT), ("t5", T5)):
        config = InstructBlipConfig(
            vision_config=vision, qformer_config=sizes, num_query_tokens=4, image_token_index=words[family],
            text_config=languages[family].to_dict(),
        )  # fmt: skip
        model = randomise(InstructBlipForConditionalGeneration(config))
        folder = saved(model, tokenizer, tmp_path_factory.mktemp(family) / "hf")
        AutoTokenizer.from_pretrained(BERT).save_pretrained(folder / "qformer_tokenizer")
        made[family] = model, folder
    return made


QFORMER_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "cross_attention_frequency",
    "encoder_hidden_size",
)  # fmt: skip
VISION_SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size",
)  # fmt: skip


@pytest.fixture(params=EXPERIMENTS)
def family(request):
    return request.param


@pytest.fixture
def run(instructed, family, tmp_path):
    """transformers' model as a run."""
    experiment = tmp_path / "experiment.yaml"
    experiment.write_text(EXPERIMENTS[family].read_text().replace('prompt: ""', 'prompt: "a"'))
    arguments = [str(instructed[family][1]), "--from=hf", f"--out={tmp_path / 'run'}", f"--config={experiment}"]
    assert main("import", arguments) == 0
    return tmp_path / "run"


def read_by_qformer(net, prompts: list[str]) -> dict[str, torch.Tensor]:
    ids = net.bridge.tokenizer.tokenizer(prompts, padding=True, return_tensors="pt")
    return {"qformer_input_ids": ids["input_ids"], "qformer_attention_mask": ids["attention_mask"]}


@torch.no_grad()
def test_it_makes_the_same_prompt_and_words(instructed, family, run):
    model, net = instructed[family][0], load(run).net
    read = read_by_qformer(net, PROMPTS)
    theirs = model.get_image_features(IMAGES, **read).pooler_output
    prefix_BPD = net.soft_prompts(net.vision(IMAGES), net.read(PROMPTS))
    torch.testing.assert_close(prefix_BPD, theirs, rtol=0, atol=1e-5)
    given = asked(model, net.language.tokenizer, PROMPTS) | read
    ids_BT = model.generate(pixel_values=IMAGES, **given, max_new_tokens=6, do_sample=False, num_beams=1)
    new_BT = ids_BT if net.language.encoder_decoder else ids_BT[:, given["input_ids"].shape[1] :]
    words = [text.strip() for text in net.language.tokenizer.batch_decode(new_BT, skip_special_tokens=True)]
    assert net.language.generate(prefix_BPD, PROMPTS, max_new_tokens=6, num_beams=1) == words and any(words)


@torch.no_grad()
def test_it_has_the_same_loss(instructed, family, run):
    model, net = instructed[family][0], load(run).net
    prompts, read = ["what shape ?"] * 2, read_by_qformer(net, ["what shape ?"] * 2)
    text = net.language.tokenise(prompts, ["ring", "ring"])
    losses_L, _ = net.language.loss(net.soft_prompts(net.vision(IMAGES), net.read(prompts)), text)
    if family == "t5":
        given, labels = asked(model, net.language.tokenizer, prompts), text.target_L.view(2, -1)
    else:
        ids_BT = text.inputs.padded()
        ids_BS = torch.cat([torch.full((2, 4), model.config.image_token_index), ids_BT], dim=1)
        given, labels = {"input_ids": ids_BS, "attention_mask": torch.ones_like(ids_BS)}, ids_BS.clone()
        labels[:, : ids_BS.shape[1] - len(text.target_L) // 2] = -100
    theirs = model(pixel_values=IMAGES, **given, **read, labels=labels).loss
    torch.testing.assert_close(losses_L.mean(), theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_from_pretrained_says_what_the_run_says(run, tmp_path, capsys):
    out, again = tmp_path / "hf", tmp_path / "again"
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={out}"]) == 0
    assert "zeros: nobody reads what the last layer makes" in " ".join(capsys.readouterr().out.split())
    model, report = InstructBlipForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor, net = InstructBlipProcessor.from_pretrained(out), load(run).net
    photo = Image.effect_noise((20, 12), 80).convert("RGB")
    given = processor(images=photo, text="what shape ?", return_tensors="pt")
    ids_BT = model.eval().generate(**given, max_new_tokens=5, do_sample=False, num_beams=1)
    new_BT = ids_BT if net.language.encoder_decoder else ids_BT[:, given["input_ids"].shape[1] :]
    words = processor.batch_decode(new_BT, skip_special_tokens=True)[0].strip()
    prefix_BPD = net.soft_prompts(net.vision(given["pixel_values"]), net.read(["what shape ?"]))
    assert net.language.generate(prefix_BPD, ["what shape ?"], max_new_tokens=5, num_beams=1) == [words] and words
    config = f"--config={run / 'version_0/config.yaml'}"
    assert main("import", [str(out), "--from=hf", f"--out={again}", config]) == 0
    assert same(run, again)


def test_lavis_and_back_is_equal_to_the_last_bit(family, run, tmp_path, capsys):
    file, again = tmp_path / "instruct.pth", tmp_path / "again"
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={file}"]) == 0
    keys = torch.load(file, weights_only=True)["model"].keys()
    assert {
        f"{'t5' if family == 't5' else 'llm'}_proj.weight",
        "Qformer.bert.embeddings.word_embeddings.weight",
    } <= keys
    config = f"--config={run / 'version_0/config.yaml'}"
    assert main("import", [str(file), "--from=lavis", f"--out={again}", config]) == 0
    assert "nobody reads what the last layer makes of a text" in " ".join(capsys.readouterr().out.split())
    assert same(run, again)


def test_a_bridge_that_reads_no_prompt_has_no_place_for_it(run, tmp_path, capsys):
    file = tmp_path / "instruct.pth"
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={file}"]) == 0
    settings = yaml.safe_load((run / "version_0/config.yaml").read_text())
    net = settings["model"]["init_args"]["net"]
    bridge = net["bridge"]["init_args"]
    net["bridge"] = {
        "class_path": "lit_blip2.model.bridge.QFormerBridge",
        "init_args": {"qformer": bridge["qformer"] | {"vocab_size": None}},
    }
    Path(tmp_path / "plain.yaml").write_text(yaml.safe_dump(settings))
    arguments = [str(file), "--from=lavis", f"--out={tmp_path / 'x'}", f"--config={tmp_path / 'plain.yaml'}"]
    assert main("import", arguments) == 2
    assert "unexpected net.bridge.qformer.word_embeddings.weight" in capsys.readouterr().err
