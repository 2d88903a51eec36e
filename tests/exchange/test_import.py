"""Folders that transformers has written become runs of this suite, which say the same."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, Blip2Config, Blip2ForImageTextRetrieval

from lit_blip2.commands.convert import main
from lit_blip2.exchange import hugging_face
from lit_blip2.inference import load
from lit_blip2.model.language import LanguageModel
from tests.exchange.tiny import BERT, IMAGES, OPT, PROMPTS, asked, load_stage1, randomise, rewritten, saved


@torch.no_grad()
@pytest.mark.parametrize("family, experiment", [("opt", "mini_opt"), ("t5", "mini_t5")])
def test_a_generation_model_makes_the_same_prompt_and_words(generation, imported, family, experiment):
    model, folder = generation[family]
    net = load(imported(folder, experiment)).net
    prefix_BPD = net.bridge(net.vision(IMAGES))
    seen = model.vision_model(IMAGES).last_hidden_state
    queries = model.qformer(query_embeds=model.query_tokens.expand(2, -1, -1), encoder_hidden_states=seen)
    theirs = model.language_projection(queries.last_hidden_state)
    torch.testing.assert_close(prefix_BPD, theirs, rtol=0, atol=1e-5)
    given = asked(model, net.language.tokenizer, PROMPTS)
    ids_BT = model.generate(pixel_values=IMAGES, **given, max_new_tokens=6, do_sample=False, num_beams=1)
    new_BT = ids_BT if net.language.encoder_decoder else ids_BT[:, given["input_ids"].shape[1] :]
    words = [text.strip() for text in net.language.tokenizer.batch_decode(new_BT, skip_special_tokens=True)]
    assert net.language.generate(prefix_BPD, PROMPTS, max_new_tokens=6, num_beams=1) == words and any(words)


@torch.no_grad()
def test_a_generation_model_has_the_same_loss(generation, imported):
    model, folder = generation["opt"]
    net = load(imported(folder, "mini_opt")).net
    text = net.language.tokenise(["what shape ?"] * 2, ["ring", "ring"])
    losses_L, _ = net.language.loss(net.bridge(net.vision(IMAGES)), text)
    ids_BT = text.inputs.padded()
    ids_BS = torch.cat([torch.full((2, 4), model.config.image_token_index), ids_BT], dim=1)
    prompt = len(net.language.tokenizer("what shape ?")["input_ids"])
    labels_BS = ids_BS.clone()
    labels_BS[:, : 4 + prompt] = -100
    theirs = model(pixel_values=IMAGES, input_ids=ids_BS, attention_mask=torch.ones_like(ids_BS), labels=labels_BS).loss
    torch.testing.assert_close(losses_L.mean(), theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_an_encoder_decoder_has_the_same_loss(generation, imported):
    model, folder = generation["t5"]
    net = load(imported(folder, "mini_t5")).net
    text = net.language.tokenise(["what shape ?"] * 2, ["ring", "ring"])
    losses_L, _ = net.language.loss(net.bridge(net.vision(IMAGES)), text)
    given = asked(model, net.language.tokenizer, ["what shape ?"] * 2)
    labels_BT = text.target_L.view(2, -1)
    theirs = model(pixel_values=IMAGES, **given, labels=labels_BT).loss
    torch.testing.assert_close(losses_L.mean(), theirs, rtol=0, atol=1e-5)


def test_a_retrieval_model_becomes_a_run_of_stage_1(hf_config, imported, tmp_path):
    words = len(AutoTokenizer.from_pretrained(BERT))
    sized = hf_config | {"qformer_config": hf_config["qformer_config"] | {"vocab_size": words}}
    model = randomise(Blip2ForImageTextRetrieval(Blip2Config(**sized, image_text_hidden_size=12)))
    run = imported(saved(model, BERT, tmp_path / "hf"), "mini_stage1")
    net, _ = load_stage1(run)
    net.vision.load()
    ids_BT = torch.tensor([net.tokenizer.tokenizer(text)["input_ids"] for text in ("a red ring", "a blue star")])
    query_BQP, image = net.encode_images(net.vision(IMAGES))
    given = dict(pixel_values=IMAGES, input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT))
    with torch.no_grad():
        theirs = model(**given, use_image_text_matching_head=True).logits_per_image
        ours = net.match_logits(image, net.tokenizer(["a red ring", "a blue star"]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert net.itg is None and query_BQP.shape == (2, 4, 12)


def test_a_configuration_may_leave_out_what_transformers_knows(generation, tmp_path):
    """As the published folders do: their Q-Former's sizes are the class' defaults."""
    own = json.loads((generation["opt"][1] / "config.json").read_text())
    short = {key: value for key, value in own["qformer_config"].items() if key != "cross_attention_frequency"}
    foreign = hugging_face.read(rewritten(generation["opt"][1], tmp_path / "short", qformer_config=short))
    assert foreign.net["bridge"]["init_args"]["qformer"]["cross_every"] == 2


def test_tied_weights_of_a_file_of_torch_are_written_apart(generation, imported, tmp_path):
    """They share their memory there, which safetensors refuses."""
    folder = rewritten(generation["opt"][1], tmp_path / "tied")
    state = load_file(folder / "model.safetensors")
    words = state["language_model.model.decoder.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(state | {"language_model.lm_head.weight": words}, folder / "pytorch_model.bin")
    written = load_file(imported(folder, "mini_opt") / "weights/language/model.safetensors")
    assert torch.equal(written["lm_head.weight"], words)


def test_no_program_comes_along_with_a_tokenizer(generation, imported, tmp_path):
    folder = rewritten(generation["opt"][1], tmp_path / "more")
    (folder / "tokenization_own.py").write_text("print('here')")
    assert not list(imported(folder, "mini_opt").rglob("*.py"))


def test_the_word_at_which_generation_ends_comes_along(generation, imported, tmp_path):
    """OPT's published folders end at a newline, not at their tokenizer's end token."""
    own = json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    number = AutoTokenizer.from_pretrained(OPT)("ring", add_special_tokens=False)["input_ids"][0]
    folder = rewritten(generation["opt"][1], tmp_path / "eos", text_config=own | {"eos_token_id": number})
    language = load(imported(folder, "mini_opt")).net.language
    assert language.end.strip() == "ring" and number in language.end_ids()


def test_a_run_takes_images_of_its_encoders_size_and_may_be_asked(generation, tmp_path, monkeypatch):
    """From another folder, into one whose name is a word of the configuration."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    folder, config = generation["opt"][1], "--config=experiments/mini_opt.yaml"
    assert main("import", [str(folder), "--from=hf", "--out=weights", config]) == 0
    settings = yaml.safe_load(Path("weights/version_0/config.yaml").read_text())
    assert settings["data"]["init_args"]["image_size"] == 8 and settings["data"]["init_args"]["features"] is None
    Image.new("RGB", (9, 9)).save("x.png")
    assert isinstance(load("weights").ask("x.png", "what shape ?"), str)


@pytest.mark.parametrize("ends", [[1, 10**6], 10**6])
def test_ends_that_a_run_cannot_have_are_said(generation, ends):
    folder, own = generation["opt"][1], json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    with pytest.warns(UserWarning, match=r"ends generation at tokens \[.*\] \(text_config.eos_token_id\), the run at"):
        hugging_face.end_mark(own | {"eos_token_id": ends}, folder)


def test_an_end_that_a_run_has_is_not_warned_of(generation, recwarn):
    folder, own = generation["opt"][1], json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    assert (
        hugging_face.end_mark(own | {"eos_token_id": AutoTokenizer.from_pretrained(OPT).eos_token_id}, folder) is None
    )
    assert not [each for each in recwarn if "ends generation" in str(each.message)]


def test_several_ends_come_in_and_end_generation(generation):
    """Targets end with the tokenizer's own, where that is among them; generation at each."""
    folder, own = generation["opt"][1], json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    tokenizer = AutoTokenizer.from_pretrained(OPT)
    other = tokenizer.convert_tokens_to_ids("red")
    ends = hugging_face.end_mark(own | {"eos_token_id": [other, tokenizer.eos_token_id]}, folder)
    assert ends == [tokenizer.eos_token, tokenizer.decode([other])]
    language = LanguageModel(str(OPT), dtype="float32", end=ends)
    language.load()
    assert language.end_ids() == [tokenizer.eos_token_id, other]
    assert language.target_ids(["blue"], [True])[0][-1] == tokenizer.eos_token_id
