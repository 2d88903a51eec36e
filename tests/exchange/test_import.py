"""Folders that transformers has written become runs of this suite, which say the same."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    OPTConfig,
    T5Config,
)

from lit_blip2.ask import load
from lit_blip2.exchange import hugging_face
from lit_blip2.exchange.command import main
from lit_blip2.exchange.files import read_weights
from lit_blip2.exchange.run import write_run
from tests.exchange.conftest import randomise

BERT, OPT, T5 = (Path("lit_blip2/mini/weights") / name for name in ("bert", "opt", "t5"))
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def saved(model, tokenizer: Path, folder: Path) -> Path:
    """As save_pretrained writes it, tokenizer beside it."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generation(hf_config, tmp_path_factory):
    """family -> (model, its folder)."""
    made = {}
    words = len(AutoTokenizer.from_pretrained(OPT))
    sizes = {
        "opt": OPTConfig(
            vocab_size=words + 1, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
            max_position_embeddings=64, word_embed_proj_dim=16,
        ),
        "t5": T5Config(
            vocab_size=len(AutoTokenizer.from_pretrained(T5)) + 1, d_model=16, d_kv=8, d_ff=32, num_layers=2,
            num_heads=2, decoder_start_token_id=0, tie_word_embeddings=False,
        ),
    }  # fmt: skip
    for family, tokenizer in (("opt", OPT), ("t5", T5)):
        given = hf_config | {"text_config": sizes[family].to_dict(), "image_token_index": words}
        model = randomise(Blip2ForConditionalGeneration(Blip2Config(**given)))
        made[family] = model, saved(model, tokenizer, tmp_path_factory.mktemp(family) / "hf")
    return made


@pytest.fixture
def imported(tmp_path):
    def make(folder: Path, experiment: str) -> Path:
        parts = hugging_face.read(folder)
        write_run(parts, Path(f"experiments/{experiment}.yaml"), tmp_path / "run", folder)
        return tmp_path / "run"

    return make


PROMPTS = ["what shape is the red object ?", "a small"]


def asked(model, tokenizer, prompts: list[str]) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of prompts: image tokens, then text; decoders padded on the left."""
    texts = [[model.config.image_token_index] * 4 + ids for ids in tokenizer(prompts)["input_ids"]]
    longest = max(map(len, texts))
    left = not model.config.text_config.is_encoder_decoder
    rows = [[0] * (longest - len(ids)) + ids if left else ids + [0] * (longest - len(ids)) for ids in texts]
    pads, ones = [[0] * (longest - len(ids)) for ids in texts], [[1] * len(ids) for ids in texts]
    marks = [pad + one if left else one + pad for pad, one in zip(pads, ones)]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(marks)}


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


def load_stage1(run: Path):
    from benchmarks.false_negatives import load as load_run

    return load_run(str(run))


def test_what_cannot_be_imported_says_why(generation, hf_retrieval, imported, tmp_path):
    _, folder = generation["opt"]
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    state = load_file(broken / "model.safetensors")
    save_file(state | {"surprise.weight": torch.zeros(1)}, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds surprise\.weight \(1 such\), which has no place here"):
        hugging_face.read(broken)
    lacking = {name: value for name, value in state.items() if "layer.0.crossattention.output.dense.bias" not in name}
    save_file(lacking, broken / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing net\.bridge\.qformer\.layers\.0\.cross\.output\.bias"):
        imported(broken, "mini_opt")
    (broken / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(ValueError, match="is damaged or cut"):
        hugging_face.read(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="holds a BertModel: Blip2ForImageTextRetrieval, Blip2For"):
        hugging_face.read(broken)


class Spy:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_files_of_torch_are_read_without_running_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.ones(2)}}, "good.pth")
    assert read_weights(Path("good.pth"))["a"].tolist() == [1, 1]
    torch.save({"model": Spy()}, "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth cannot be read: it holds more than tensors"):
        read_weights(Path("bad.pth"))
    Path("cut.pth").write_bytes(Path("good.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.pth cannot be read: it is damaged"):
        read_weights(Path("cut.pth"))
    assert not Path("executed").exists()
    with pytest.raises(FileNotFoundError, match="no weights in"):
        read_weights(tmp_path)


def test_shards_are_joined_and_a_missing_one_is_named(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert {name: len(value) for name, value in read_weights(tmp_path).items()} == {"a": 1, "b": 2}
    index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}))
    with pytest.raises(ValueError, match=r"names c \(1 such\), which 2.safetensors does not hold"):
        read_weights(tmp_path)


def rewritten(folder: Path, out: Path, change=lambda state: state, **config) -> Path:
    """A copy of a folder with other weights and other fields of its configuration."""
    shutil.copytree(folder, out)
    save_file(change(load_file(folder / "model.safetensors")), out / "model.safetensors", metadata={"format": "pt"})
    own = json.loads((folder / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(own | config))
    return out


def test_a_configuration_may_leave_out_what_transformers_knows(generation, tmp_path):
    """As the published folders do: their Q-Former's sizes are the class' defaults."""
    own = json.loads((generation["opt"][1] / "config.json").read_text())
    short = {key: value for key, value in own["qformer_config"].items() if key != "cross_attention_frequency"}
    parts = hugging_face.read(rewritten(generation["opt"][1], tmp_path / "short", qformer_config=short))
    assert parts.net["bridge"]["init_args"]["qformer"]["cross_every"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda key: "language_model" in key and "fc1.weight" in key,
            "does not fit this model: missing net.language.model",
        ),
        (
            lambda key: "vision_model.encoder.layers.1.mlp.fc2.bias" in key,
            "missing net.vision.encoder.blocks.1.mlp.fc2.bias",
        ),
    ],
)
def test_a_frozen_weight_that_is_missing_is_named(generation, imported, tmp_path, change, words, capsys):
    def without(state):
        return {key: value for key, value in state.items() if not change(key)}

    folder = rewritten(generation["opt"][1], tmp_path / "cut", without)
    assert (
        main("import", [str(folder), "--from=hf", f"--out={tmp_path / 'x'}", "--config=experiments/mini_opt.yaml"]) == 2
    )
    assert re.search(words, capsys.readouterr().err)


def test_a_frozen_weight_too_many_or_of_another_shape_is_named(generation, imported, tmp_path):
    more = rewritten(generation["opt"][1], tmp_path / "more", lambda s: s | {"language_model.surprise": torch.ones(1)})
    with pytest.raises(ValueError, match=r"does not fit this model: unexpected net\.language\.model\.surprise"):
        imported(more, "mini_opt")
    key = "vision_model.encoder.layers.0.mlp.fc1.bias"
    other = rewritten(generation["opt"][1], tmp_path / "other", lambda s: s | {key: torch.ones(5)})
    with pytest.raises(ValueError, match=r"does not fit .*vision\.encoder\.blocks\.0\.mlp\.fc1\.bias is \(5,\)"):
        imported(other, "mini_opt")


@pytest.mark.parametrize(
    ("part", "name", "value", "known"),
    [
        ("qformer_config", "hidden_act", "relu", "'gelu'"),
        ("vision_config", "hidden_act", "quick_gelu", "'gelu'"),
        ("vision_config", "layer_norm_eps", 0.01, "1e-06"),
        ("vision_config", "qkv_bias", False, "True"),
    ],
)
def test_what_the_parts_here_cannot_be_is_refused(generation, tmp_path, part, name, value, known):
    own = json.loads((generation["opt"][1] / "config.json").read_text())[part]
    folder = rewritten(generation["opt"][1], tmp_path / "other", **{part: own | {name: value}})
    with pytest.raises(ValueError, match=rf"{part}\.{name} is {value!r}, this package has {known}"):
        hugging_face.read(folder)


@pytest.mark.parametrize(
    "content",
    ["[]", "null", '{"architectures": ["Blip2ForConditionalGeneration"], "qformer_config": [1]}',
     '{"architectures": ["Blip2ForConditionalGeneration"], "text_config": {"model_type": "nope"}}'],
)  # fmt: skip
def test_a_broken_configuration_is_an_error_and_no_traceback(generation, tmp_path, content, capsys):
    folder = rewritten(generation["opt"][1], tmp_path / "broken")
    (folder / "config.json").write_text(content)
    arguments = [str(folder), "--from=hf", f"--out={tmp_path / 'x'}", "--config=experiments/mini_opt.yaml"]
    assert main("import", arguments) == 2
    assert re.search("holds no JSON object|is no configuration of a Blip2For", capsys.readouterr().err)


@pytest.mark.parametrize("content", ["[1]", "a: [", "model: {}"])
def test_an_experiment_that_is_none_is_said(generation, tmp_path, content, capsys):
    (tmp_path / "bad.yaml").write_text(content)
    arguments = [str(generation["opt"][1]), "--from=hf", f"--out={tmp_path / 'x'}", f"--config={tmp_path}/bad.yaml"]
    assert main("import", arguments) == 2
    assert "is no experiment with a network and data" in capsys.readouterr().err


SIZED = (
    "query_tokens", "qformer.encoder.layer.0.attention.attention.query.weight",
    "qformer.encoder.layer.0.crossattention.attention.key.bias", "vision_model.embeddings.position_embedding",
    "vision_model.encoder.layers.0.self_attn.qkv.bias", "language_projection.bias",
    "language_model.model.decoder.layers.0.fc1.weight",
)  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (72, 24), (3, 16)])
def test_all_weights_of_a_wrong_size_are_named_at_once(generation, imported, tmp_path, shape):
    folder = rewritten(
        generation["opt"][1], tmp_path / "sized", lambda s: s | {key: torch.ones(shape) for key in SIZED}
    )
    with pytest.raises(ValueError) as found:
        imported(folder, "mini_opt")
    for ours in ("query_tokens", "layers.0.attention.qkv.weight", "layers.0.cross.kv.bias", "encoder.pos_embed",
                 "blocks.0.attn.q_bias", "projection.bias", "layers.0.fc1.weight"):  # fmt: skip
        assert f"{ours} is (" in str(found.value)


def test_parts_whose_sizes_only_sum_up_are_not_taken(generation, imported, tmp_path):
    """20, 28 and 24 rows are as many as three times 24."""
    place = "qformer.encoder.layer.0.attention.attention"
    odd = {f"{place}.{part}.weight": torch.ones(rows, 24) for part, rows in (("query", 20), ("key", 28))}
    with pytest.raises(
        ValueError, match=r"layers\.0\.attention\.qkv\.weight is \(1, 1728\), the model's is \(72, 24\)"
    ):
        imported(rewritten(generation["opt"][1], tmp_path / "odd", lambda s: s | odd), "mini_opt")


def test_a_part_that_is_missing_leaves_ours_missing(generation, imported, tmp_path):
    key = "qformer.encoder.layer.0.attention.attention.query.weight"
    folder = rewritten(generation["opt"][1], tmp_path / "cut", lambda s: {k: v for k, v in s.items() if k != key})
    with pytest.raises(ValueError, match=r"missing net\.bridge\.qformer\.layers\.0\.attention\.qkv\.weight"):
        imported(folder, "mini_opt")


def test_tied_weights_of_a_file_of_torch_are_written_apart(generation, imported, tmp_path):
    """They share their memory there, which safetensors refuses."""
    folder = rewritten(generation["opt"][1], tmp_path / "tied")
    state = load_file(folder / "model.safetensors")
    words = state["language_model.model.decoder.embed_tokens.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(state | {"language_model.lm_head.weight": words}, folder / "pytorch_model.bin")
    written = load_file(imported(folder, "mini_opt") / "weights/language/model.safetensors")
    assert torch.equal(written["lm_head.weight"], words)


def test_what_is_no_number_is_refused(generation, imported, tmp_path):
    broken = {"query_tokens": torch.full((1, 4, 24), torch.nan)}
    folder = rewritten(generation["opt"][1], tmp_path / "nan", lambda s: s | broken)
    with pytest.raises(ValueError, match=r"query_tokens \(1 such\) holds something else than finite numbers"):
        imported(folder, "mini_opt")


def test_no_program_comes_along_with_a_tokenizer(generation, imported, tmp_path):
    folder = rewritten(generation["opt"][1], tmp_path / "more")
    (folder / "tokenization_own.py").write_text("print('here')")
    assert not list(imported(folder, "mini_opt").rglob("*.py"))


def test_files_of_torch_of_the_old_kind_are_read_and_the_first_of_several_counts(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path)["a"].tolist() == [1, 1]
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "gone.bin"}}))
    assert read_weights(tmp_path)["a"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("placed", "words"),
    [
        ({"a": "1.safetensors", "b": "2.safetensors"}, r"2\.safetensors holds a \(1 such\), which .* does not place"),
        ({"a": "../1.safetensors"}, r"names '\.\./1\.safetensors': shards lie beside their index"),
        (["a"], "is no index of shards"),
    ],
)
def test_an_index_is_obeyed(tmp_path, placed, words):
    save_file({"a": torch.ones(1)}, tmp_path / "1.safetensors")
    save_file({"a": torch.zeros(1), "b": torch.ones(2)}, tmp_path / "2.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(ValueError, match=words):
        read_weights(tmp_path)


def test_the_word_at_which_generation_ends_comes_along(generation, imported, tmp_path):
    """OPT's published folders end at a newline, not at their tokenizer's end token."""
    own = json.loads((generation["opt"][1] / "config.json").read_text())["text_config"]
    number = AutoTokenizer.from_pretrained(OPT)("ring", add_special_tokens=False)["input_ids"][0]
    folder = rewritten(generation["opt"][1], tmp_path / "eos", text_config=own | {"eos_token_id": number})
    language = load(imported(folder, "mini_opt")).net.language
    assert language.end.strip() == "ring" and number in language.end_ids()


def test_a_folder_without_a_tokenizer_or_of_the_wrong_stage_says_so(generation, tmp_path, capsys):
    bare = rewritten(generation["opt"][1], tmp_path / "bare")
    for file in bare.glob("*token*"):
        file.unlink()
    out = f"--out={tmp_path / 'x'}"
    assert main("import", [str(bare), "--from=hf", out, "--config=experiments/mini_opt.yaml"]) == 2
    assert "token" in capsys.readouterr().err
    stage1 = "--config=experiments/mini_stage1.yaml"
    assert main("import", [str(generation["opt"][1]), "--from=hf", out, stage1]) == 2
    assert "the model is of stage 2, experiments/mini_stage1.yaml is not" in capsys.readouterr().err


def test_a_run_takes_images_of_its_encoders_size_and_may_be_asked(generation, tmp_path, monkeypatch):
    """From another folder, into one whose name is a word of the configuration."""
    from PIL import Image

    from lit_blip2.ask import answer

    monkeypatch.chdir(tmp_path)
    folder, config = generation["opt"][1], "--config=experiments/mini_opt.yaml"
    assert main("import", [str(folder), "--from=hf", "--out=weights", config]) == 0
    settings = yaml.safe_load(Path("weights/version_0/config.yaml").read_text())
    assert settings["data"]["init_args"]["image_size"] == 8 and settings["data"]["init_args"]["features"] is None
    Image.new("RGB", (9, 9)).save("x.png")
    assert isinstance(answer("weights", "x.png", "what shape ?"), str)


def test_a_projection_for_another_family_is_refused(tmp_path, capsys):
    state = {
        "t5_proj.weight": torch.ones(128, 128),
        "t5_proj.bias": torch.ones(128),
        "ln_vision.weight": torch.ones(128),
    }
    torch.save({"model": state}, tmp_path / "x.pth")
    arguments = [
        str(tmp_path / "x.pth"),
        "--from=lavis",
        f"--out={tmp_path / 'x'}",
        "--config=experiments/mini_opt.yaml",
    ]
    assert main("import", arguments) == 2
    assert "was trained for a language model of kind t5, experiments/mini_opt.yaml has opt" in capsys.readouterr().err
