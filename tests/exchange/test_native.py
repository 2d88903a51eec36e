"""Runs of this suite, as `fit` leaves them, say the same in transformers and come back as they were."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    GPT2Config,
    GPT2LMHeadModel,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands.convert import main
from lit_blip2.exchange.encoders import CLIP, EVA, kind_of
from lit_blip2.inference import load
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.network import random_parts
from tests.exchange.tiny import BERT, IMAGES, OPT, T5, VIT, encoder_file, load_stage1, randomise, same

pytestmark = pytest.mark.run

WORDS = len(AutoTokenizer.from_pretrained(OPT))
ASKED = ["what shape is the red object ?", "a small", "is there a red star ?", "how many objects are there ?"]


def llama() -> torch.nn.Module:
    sizes = dict(hidden_size=16, num_hidden_layers=2, intermediate_size=24, num_attention_heads=2)
    return randomise(
        LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, max_position_embeddings=64, bos_token_id=5, **sizes))
    )


def gpt2() -> torch.nn.Module:
    """All its logits are far below zero, as those of the published one are."""
    sizes = dict(n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model = randomise(GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, **sizes)))
    model.transformer.ln_f.bias.data += 4
    model.transformer.wte.weight.data -= 1
    return model


def qwen(words: int) -> torch.nn.Module:
    sizes = dict(hidden_size=16, num_hidden_layers=2, intermediate_size=24, num_attention_heads=2)
    return randomise(Qwen2ForCausalLM(Qwen2Config(vocab_size=words, num_key_value_heads=1, bos_token_id=3, **sizes)))


@pytest.fixture(scope="module")
def languages(tmp_path_factory) -> dict[str, Path]:
    """Folders of language models whose vocabulary has no room for another word: two without a padding token, one whose
    tokenizer ends every text, and one with the tokenizer that transformers puts over every Qwen: each byte a word here,
    and no token begins a text."""
    folders = {"opt": OPT.resolve(), "t5": T5.resolve()}
    for name, make in (("llama", llama), ("gpt2", gpt2)):
        folders[name] = tmp_path_factory.mktemp(name) / "lm"
        make().save_pretrained(folders[name])
        tokenizer = AutoTokenizer.from_pretrained(OPT)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(folders[name])
    folders["closing"] = tmp_path_factory.mktemp("closing") / "lm"
    llama().save_pretrained(folders["closing"])
    tokenizer = AutoTokenizer.from_pretrained(OPT)
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    numbers = [(each, tokenizer.convert_tokens_to_ids(each)) for each in {begin, end}]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin} $A {end}", special_tokens=numbers)
    tokenizer.save_pretrained(folders["closing"])
    letters = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    folders["qwen"] = tmp_path_factory.mktemp("qwen") / "lm"
    qwen(len(letters)).save_pretrained(folders["qwen"])
    Qwen2Tokenizer({letter: number for number, letter in enumerate(letters)}, []).save_pretrained(folders["qwen"])
    return folders


def exported(run: Path, out: Path, side: str = "hf") -> Path:
    assert main("export", [f"--checkpoint={run}", f"--to={side}", f"--out={out}"]) == 0
    return out


def imported(source: Path, out: Path, config: Path | str, side: str = "hf") -> Path:
    assert main("import", [str(source), f"--from={side}", f"--out={out}", f"--config={config}"]) == 0
    return out


def settings(run: Path) -> dict:
    return yaml.safe_load((run / "version_0/config.yaml").read_text())["model"]["init_args"]["net"]


@torch.no_grad()
@pytest.mark.parametrize("family", ["opt", "t5", "llama", "gpt2", "qwen", "closing"])
def test_the_same_words_for_a_batch_greedily_and_with_beams(native, languages, family, tmp_path):
    run = native("mini_t5" if family == "t5" else "mini_opt", {"name": str(languages[family])})
    out = exported(run, tmp_path / "hf")
    model, report = Blip2ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    processor, net = Blip2Processor.from_pretrained(out), load(run).net
    photos = [Image.effect_noise((20, 12), 80 + 20 * number).convert("RGB") for number in range(len(ASKED))]
    given = processor(images=photos, text=ASKED, padding=True, return_tensors="pt")
    prefix_BPD = net.bridge(net.vision(given["pixel_values"]))
    number = model.config.image_token_index
    assert number == net.language.model.get_input_embeddings().num_embeddings
    beams = {"num_beams": 3, "suppress_tokens": [number], "renormalize_logits": True}
    for how in ({"num_beams": 1}, beams):
        ids_BT = model.generate(**given, max_new_tokens=6, do_sample=False, **how)
        new_BT = ids_BT if family == "t5" else ids_BT[:, given["input_ids"].shape[1] :]
        words = [text.strip() for text in processor.batch_decode(new_BT, skip_special_tokens=True)]
        assert net.language.generate(prefix_BPD, ASKED, max_new_tokens=6, num_beams=how["num_beams"]) == words
        assert any(words)
    again = exported(run, tmp_path / "again")
    assert (out / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert str(languages[family]) not in (out / "config.json").read_text()


@torch.no_grad()
@pytest.mark.parametrize("family", ["opt", "t5", "llama", "qwen", "closing"])
def test_the_same_words_without_a_text(native, languages, family, tmp_path, capsys):
    """Configurations of llama and Qwen name other begin tokens than their tokenizers put there; Qwen's puts none."""
    run = native("mini_t5" if family == "t5" else "mini_opt", {"name": str(languages[family])})
    out = exported(run, tmp_path / "hf")
    model, processor = Blip2ForConditionalGeneration.from_pretrained(out), Blip2Processor.from_pretrained(out)
    net = load(run).net
    photos = [Image.effect_noise((20, 12), 60 + 40 * number).convert("RGB") for number in range(3)]
    given = processor(images=photos, text=[""] * 3, return_tensors="pt")
    prefix_BPD = net.bridge(net.vision(given["pixel_values"]))
    wanted = net.language.generate(prefix_BPD, [""] * 3, max_new_tokens=6, num_beams=1)
    assert any(wanted)
    how = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1}
    queries, words = model.config.num_query_tokens, {}
    assert ("images without a text" in capsys.readouterr().out) == (family == "qwen")
    if family == "qwen":
        with pytest.raises((TypeError, RuntimeError)):
            model.generate(given["pixel_values"], **how)
    else:
        words["images alone"] = model.generate(given["pixel_values"], **how)
    words["an empty text"] = model.generate(**given, **how)
    for what, ids_BT in words.items():
        added = 0 if family == "t5" else queries + (family != "qwen")
        answers = processor.batch_decode(ids_BT[:, added:], skip_special_tokens=True)
        assert [each.strip() for each in answers] == wanted, what


def test_the_language_model_comes_back_as_large_as_exact_and_with_its_end(native, languages, tmp_path):
    """A run in bfloat16 and 8 bits, of weights in float32."""
    language = {"name": str(languages["llama"]), "dtype": "bfloat16", "end": " ring", "bits": 8}
    run = native("mini_opt", language)
    out = exported(run, tmp_path / "hf")
    again = imported(out, tmp_path / "again", run / "version_0/config.yaml")
    assert same(run, again)
    read, own = (
        load_file(again / "weights/language/model.safetensors"),
        load_file(languages["llama"] / "model.safetensors"),
    )
    assert read.keys() == own.keys() and all(torch.equal(read[name], own[name]) for name in own)
    kept = settings(again)["language"]
    assert (kept["end"], kept["dtype"], kept["bits"]) == (" ring", "bfloat16", 8)
    ids = AutoTokenizer.from_pretrained(again / "weights/language")("a red <image> ring")["input_ids"]
    assert max(ids) < WORDS  # no word without a row
    ring = AutoTokenizer.from_pretrained(OPT)(" ring", add_special_tokens=False)["input_ids"][-1]
    model = Blip2ForConditionalGeneration.from_pretrained(out)
    assert model.language_model.generation_config.eos_token_id == ring


@torch.no_grad()
@pytest.mark.parametrize("frozen", [True, False])
def test_images_of_another_size_are_seen_alike(native, languages, tmp_path, frozen):
    run = native("mini_opt", {"name": str(languages["opt"])}, {"image_size": 20, "frozen": frozen, "dtype": "float32"})
    out = exported(run, tmp_path / "hf")
    images = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    net = load(run).net
    ours = net.bridge(net.vision(images))
    theirs = Blip2ForConditionalGeneration.from_pretrained(out).eval().get_image_features(images).pooler_output
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    back = load(imported(out, tmp_path / "again", run / "version_0/config.yaml")).net
    torch.testing.assert_close(back.bridge(back.vision(images)), ours, rtol=0, atol=1e-6)


SMALL = dict(img_size=8, patch_size=4, embed_dim=16, depth=3, num_heads=2)


@pytest.mark.parametrize(
    ("name", "args", "kind"),
    [
        ("eva_giant_patch14_clip_224", VIT, EVA),
        ("eva_giant_patch14_clip_224", VIT | {"drop_path_rate": 0.1}, EVA),
        ("eva_giant_patch14_clip_224", VIT | {"init_values": 0.5}, None),
        ("eva_giant_patch14_clip_224", VIT | {"use_rot_pos_emb": True}, None),
        ("eva02_tiny_patch14_224", VIT, None),
        ("beit_base_patch16_224", SMALL | {"use_rel_pos_bias": False, "use_abs_pos_emb": True}, None),
        ("vit_large_patch14_clip_quickgelu_224", SMALL, CLIP),
        ("vit_base_patch16_clip_224", SMALL, None),  # the same weights, but GELU
    ],
)
def test_an_encoder_is_known_by_what_it_computes(name, args, kind):
    assert kind_of(VisionEncoder(name, model_args=args)) == kind


def test_an_encoder_with_more_than_eva_clip_goes_nowhere_in_silence(native, languages, tmp_path, capsys):
    args = VIT | {"init_values": 0.5}
    (tmp_path / "other").mkdir()
    file = encoder_file(tmp_path / "other", init_values=0.5)
    run = native("mini_opt", {"name": str(languages["opt"])}, {"model_args": args, "weights": str(file)})
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    assert "image encoder eva_giant_patch14_clip_224 cannot go" in capsys.readouterr().err
    exported(run, tmp_path / "x.pth", "lavis")
    assert "left out: LAVIS knows no eva_giant" in " ".join(capsys.readouterr().out.split())
    keys = torch.load(tmp_path / "x.pth", weights_only=True)["model"]
    assert not any(key.startswith("visual_encoder.") for key in keys)


def instruct(net: dict) -> None:
    """OPT behind a bridge that reads prompts."""
    qformer = net["bridge"]["init_args"]["qformer"]
    words = len(AutoTokenizer.from_pretrained(BERT))
    qformer = qformer.get("init_args", qformer) | {"vocab_size": words, "max_positions": 64}
    given = {"qformer": qformer, "tokenizer": str(BERT.resolve()), "max_text_tokens": 8}
    net["bridge"] = {"class_path": "lit_blip2.model.instructed.InstructedBridge", "init_args": given}
    net["prompt"] = "a"


@torch.no_grad()
def test_opt_that_reads_prompts_goes_both_ways(native, languages, tmp_path):
    run = native("mini_opt", {"name": str(languages["opt"])}, change=instruct)
    config = run / "version_0/config.yaml"
    file = exported(run, tmp_path / "x.pth", "lavis")
    assert "llm_proj.weight" in torch.load(file, weights_only=True)["model"]
    assert same(run, imported(file, tmp_path / "lavis", config, "lavis"))
    out = exported(run, tmp_path / "hf")
    again = imported(out, tmp_path / "again", config)
    assert same(run, again) and settings(again)["bridge"]["init_args"]["max_text_tokens"] == 8
    net, model = load(run).net, InstructBlipForConditionalGeneration.from_pretrained(out).eval()
    read = AutoTokenizer.from_pretrained(out / "qformer_tokenizer")
    long = " ".join(ASKED)
    ids = read([long] * 2, truncation=True, return_tensors="pt")
    assert ids["input_ids"].shape == (2, 8)
    given = {"qformer_input_ids": ids["input_ids"], "qformer_attention_mask": ids["attention_mask"]}
    theirs = model.get_image_features(IMAGES, **given).pooler_output
    torch.testing.assert_close(net.soft_prompts(net.vision(IMAGES), net.read([long] * 2)), theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_both_heads_of_an_exported_stage_1_are_transformers(native, tmp_path, capsys):
    run = native("mini_stage1")
    out = exported(run, tmp_path / "hf")
    assert "there its epsilon is 1e-06, here 1e-05" in " ".join(capsys.readouterr().out.split())
    model = Blip2ForImageTextRetrieval.from_pretrained(out).eval()
    model.vision_model.post_layernorm.eps = 1e-5
    net, _ = load_stage1(run)
    net.load()
    texts = ["a red ring", "a blue star"]
    ids_BT = torch.tensor([net.tokenizer.tokenizer(text)["input_ids"] for text in texts])
    given = dict(pixel_values=IMAGES, input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT))
    query_BQP, image = net.encode_images(net.vision(IMAGES))
    theirs = model(**given, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(net.match_logits(image, net.tokenizer(texts)), theirs, rtol=0, atol=1e-5)
    cosine_BB = torch.einsum("bqp,cp->bcq", query_BQP, net.encode_texts(net.tokenizer(texts))).amax(-1)
    theirs = model(**given, use_image_text_matching_head=False).logits_per_image
    torch.testing.assert_close(cosine_BB, theirs, rtol=0, atol=1e-5)


def test_a_model_of_stage_1_is_no_experiment_of_stage_2(native, tmp_path, capsys):
    run = native("mini_stage1")
    for side, out in (("hf", tmp_path / "hf"), ("lavis", tmp_path / "x.pth")):
        arguments = [str(exported(run, out, side)), f"--from={side}", f"--out={tmp_path / 'x'}"]
        assert main("import", [*arguments, "--config=experiments/mini_opt.yaml"]) == 2
        assert "the model is of stage 1, experiments/mini_opt.yaml is not" in capsys.readouterr().err


def test_a_stage_1_without_a_head_is_refused(native, tmp_path, capsys):
    run = native("mini_stage1", change=lambda net: net.update(itc=None))
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    assert "was trained with itc=null: Blip2ForImageTextRetrieval has both heads" in capsys.readouterr().err


def test_what_lies_beside_a_folder_does_not_change_the_model(native, tmp_path, capsys):
    run = native("mini_stage1")
    out = exported(run, tmp_path / "hf")
    kept = load_file(out / "lit_blip2.safetensors")
    save_file(kept | {"itm.head.bias": torch.zeros(2)}, out / "lit_blip2.safetensors")
    config = f"--config={run / 'version_0/config.yaml'}"
    assert main("import", [str(out), "--from=hf", f"--out={tmp_path / 'x'}", config]) == 2
    assert "holds itm.head.bias (1 such), whose place is in the model" in capsys.readouterr().err


def test_an_imported_run_may_be_moved(native, languages, tmp_path):
    run = native("mini_opt", {"name": str(languages["opt"])})
    there = imported(exported(run, tmp_path / "hf"), tmp_path / "there", run / "version_0/config.yaml")
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    said = load(there).ask(tmp_path / "x.png", "what shape ?")
    shutil.move(there, tmp_path / "moved")
    assert load(tmp_path / "moved").ask(tmp_path / "x.png", "what shape ?") == said
    exported(tmp_path / "moved", tmp_path / "again")


def test_a_language_model_whose_words_are_narrower_is_refused(native, tmp_path, capsys):
    from transformers import OPTConfig, OPTForCausalLM

    sizes = dict(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64)
    model = OPTForCausalLM(OPTConfig(vocab_size=WORDS, word_embed_proj_dim=8, do_layer_norm_before=False, **sizes))
    model.save_pretrained(tmp_path / "lm")
    AutoTokenizer.from_pretrained(OPT).save_pretrained(tmp_path / "lm")
    run = native("mini_opt", {"name": str(tmp_path / "lm")})
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    assert "embeds words in 8 numbers and computes in 16" in capsys.readouterr().err


def test_low_rank_changes_are_merged_into_an_export(native, languages, tmp_path, capsys):
    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    run = native("mini_opt", {"name": str(languages["opt"]), "lora": lora})
    file = run / "version_0/checkpoints/last.ckpt"
    contents = read_checkpoint(file)
    from lit_blip2.model.language import LanguageModel

    language = LanguageModel(str(languages["opt"]), dtype="float32", lora=lora)
    language.load()
    changes = {f"net.language.{n}": torch.randn_like(v) for n, v in language.named_parameters() if v.requires_grad}
    torch.save(contents | {"state_dict": contents["state_dict"] | changes}, file)
    model = Blip2ForConditionalGeneration.from_pretrained(exported(run, tmp_path / "hf"))
    name = "model.decoder.layers.0.self_attn.q_proj"
    down, up = (changes[f"net.language.model.{name}.lora_{part}.default.weight"] for part in "AB")
    before = load_file(OPT / "model.safetensors")[f"{name}.weight"].float()
    merged = model.language_model.get_parameter(f"{name}.weight")
    torch.testing.assert_close(merged, before + 2 * up @ down, rtol=0, atol=1e-5)
    again = imported(tmp_path / "hf", tmp_path / "again", run / "version_0/config.yaml")
    assert settings(again)["language"]["lora"] is None
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={tmp_path / 'x.pth'}"]) == 2
    assert "changes of its language model (lora), for which LAVIS has no place" in capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_output_matrix_of_its_own_goes_along_whatever_the_configuration_says(native, languages, family, tmp_path):
    """The configurations say that it is tied; of T5 transformers says so always."""
    folder = tmp_path / "own"
    shutil.copytree(languages[family], folder)
    state = load_file(folder / "model.safetensors")
    words = state["shared.weight" if family == "t5" else "transformer.wte.weight"]
    own = torch.randn(words.shape, generator=torch.Generator().manual_seed(2)).to(words.dtype)
    save_file(state | {"lm_head.weight": own}, folder / "model.safetensors", metadata={"format": "pt"})
    run = native("mini_t5" if family == "t5" else "mini_opt", {"name": str(folder)})
    out = exported(run, tmp_path / "hf")
    model = Blip2ForConditionalGeneration.from_pretrained(out)
    assert torch.equal(model.language_model.lm_head.weight[: len(own)], own)
    assert torch.equal(model.language_model.get_input_embeddings().weight[: len(own)], words)
    assert model.config.text_config.to_dict().get("scale_decoder_outputs") in (None, True)
    written = load_file(
        imported(out, tmp_path / "again", run / "version_0/config.yaml") / "weights/language/model.safetensors"
    )
    assert torch.equal(written["lm_head.weight"], own)


def test_rows_of_words_alone_are_cut_from_an_export(native, languages, tmp_path, capsys):
    run = native("mini_opt", {"name": str(languages["llama"])})
    out = exported(run, tmp_path / "hf")
    key = "model.layers.0.mlp.gate_proj.weight"
    longer = {f"language_model.{key}": torch.ones(33, 16)}
    save_file(load_file(out / "model.safetensors") | longer, out / "model.safetensors", metadata={"format": "pt"})
    config = f"--config={run / 'version_0/config.yaml'}"
    assert main("import", [str(out), "--from=hf", f"--out={tmp_path / 'x'}", config]) == 2
    assert f"net.language.model.{key} is (33, 16), the model's is (24, 16)" in capsys.readouterr().err


def test_how_much_of_a_text_stage_1_reads_comes_back(native, tmp_path):
    run = native("mini_stage1", change=lambda net: net.update(max_text_tokens=7))
    again = imported(exported(run, tmp_path / "hf"), tmp_path / "again", "experiments/mini_stage1.yaml")
    assert (
        settings(again)["max_text_tokens"] == 7 != settings(native("mini_stage1", name="as it is"))["max_text_tokens"]
    )


def test_an_encoder_decoder_that_transformers_builds_as_a_decoder_is_refused(native, tmp_path, capsys):
    sizes = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2)
    model = BartForConditionalGeneration(BartConfig(vocab_size=WORDS, max_position_embeddings=64, **sizes))
    model.save_pretrained(tmp_path / "lm")
    AutoTokenizer.from_pretrained(OPT).save_pretrained(tmp_path / "lm")
    run = native("mini_t5", {"name": str(tmp_path / "lm")})
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    assert "has an encoder, and Hugging Face's Blip2 builds a bart as a decoder alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [(CLIP, "has no norm before the blocks"), ("vit_base_patch16_clip_224", "this one is built otherwise")],
)
def test_why_an_encoder_cannot_go_is_said(native, languages, tmp_path, capsys, name, reason):
    (tmp_path / "other").mkdir()
    vision = {"name": name, "weights": str(encoder_file(tmp_path / "other", name))}
    run = native("mini_opt", {"name": str(languages["opt"])}, vision)
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    assert f"its vision tower is EVA-CLIP's, and {reason}" in capsys.readouterr().err


@pytest.mark.parametrize("broken", ["vision shapes", "vision cut", "language cut", "language code"])
def test_a_runs_own_file_that_cannot_be_read_is_one_line(native, languages, tmp_path, capsys, broken):
    folder = shutil.copytree(languages["llama"], tmp_path / "lm")
    run = native("mini_opt", {"name": str(folder)})
    if broken.startswith("vision"):
        file = tmp_path / "own_vit.safetensors"
        save_file(load_file(file) | {"blocks.0.norm1.weight": torch.ones(3)}, file)
    else:
        file = folder / "model.safetensors"
    if broken.endswith("cut"):
        file.write_bytes(file.read_bytes()[:20])
    if broken.endswith("code"):
        file.unlink()
        torch.save({"model.embed_tokens.weight": print}, folder / "pytorch_model.bin")
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'hf'}"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and not (tmp_path / "hf").exists()


def to_lavis_and_back(run: Path, tmp_path: Path, **vision) -> int:
    """Export, and import with the run's own configuration, changed. Returns the import's status."""
    tmp_path.mkdir(exist_ok=True)
    exported(run, tmp_path / "x.pth", "lavis")
    settings = yaml.safe_load((run / "version_0/config.yaml").read_text())
    settings["model"]["init_args"]["net"]["vision"] |= vision
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    return main(
        "import", [f"{tmp_path}/x.pth", "--from=lavis", f"--out={tmp_path}/again", f"--config={tmp_path}/own.yaml"]
    )


def test_how_images_looked_goes_to_lavis_and_back_with_a_warning(native, languages, tmp_path):
    looks = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    run = native("mini_opt", {"name": str(languages["opt"])}, looks)
    with pytest.warns(UserWarning, match=r"LAVIS prepares images with .*0\.48.* this run did so .*0\.1, 0\.2, 0\.3"):
        assert to_lavis_and_back(run, tmp_path, **dict.fromkeys(looks)) == 0
    vision = load(tmp_path / "again").net.vision
    assert (vision.mean, vision.std, vision.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")


def test_nothing_lies_beside_what_lavis_can_hold(native, languages, tmp_path):
    run = native("mini_opt", {"name": str(languages["opt"])})
    exported(run, tmp_path / "x.pth", "lavis")
    assert torch.load(tmp_path / "x.pth", weights_only=True).keys() == {"model"}


def test_a_file_of_lavis_with_fewer_blocks_than_the_experiment_is_refused(native, languages, tmp_path, capsys):
    run = native("mini_opt", {"name": str(languages["opt"])}, {"drop_last_blocks": 0})
    assert to_lavis_and_back(run, tmp_path / "one", model_args=VIT | {"depth": 3}) == 2
    assert "holds 2 blocks of the image encoder, in " in (said := capsys.readouterr().err)
    assert "own.yaml an image goes through 3: some are missing" in said
    assert to_lavis_and_back(run, tmp_path / "two", model_args=VIT | {"depth": 3}, drop_last_blocks=1) == 0


@pytest.mark.parametrize("side", ["hf", "lavis"])
def test_a_random_part_is_told_of_wherever_it_goes(native, languages, tmp_path, side):
    run = native("mini_opt", {"name": str(languages["opt"]), "weights": "random"}, {"weights": "random"})
    out = tmp_path / ("x.pth" if side == "lavis" else "x")
    with pytest.warns(UserWarning, match="RANDOM") as told:
        exported(run, out, side)
    assert any(f"language model {languages['opt']}" in str(each.message) for each in told)
    arguments = [str(out), f"--from={side}", f"--out={tmp_path / 'again'}", f"--config={run}/version_0/config.yaml"]
    with pytest.warns(UserWarning, match="RANDOM") as told:
        assert main("import", arguments) == 0
    said = {str(each.message).split(" has RANDOM weights (as ")[0] for each in told}
    assert said >= {"image encoder eva_giant_patch14_clip_224", f"language model {languages['opt']}"}
    with pytest.warns(UserWarning, match="RANDOM") as told:
        net = load(tmp_path / "again").net
    assert len(random_parts(net)) == 2 and len({str(each.message) for each in told}) >= 2


def test_an_encoder_for_timm_is_as_deep_as_its_card_says(native, languages, tmp_path):
    """The last block and the norm behind it are not there; images are of the run's size."""
    run = native("mini_opt", {"name": str(languages["opt"])}, {"mean": [0.1, 0.2, 0.3]})
    exported(run, tmp_path / "timm", "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}/timm", pretrained=True, pretrained_strict=False).eval()
    assert len(theirs.blocks) == 1 and theirs.pretrained_cfg["input_size"] == [3, 8, 8]
    seen = []
    theirs.blocks[0].register_forward_hook(lambda module, given, output: seen.append(output))
    ours = VisionEncoder("eva_giant_patch14_clip_224", str(tmp_path / "timm"), model_args=VIT)
    ours.load()
    with torch.no_grad():
        theirs.forward_features(IMAGES)
    torch.testing.assert_close(ours(IMAGES), seen[0])
    assert (ours.size, ours.mean) == (8, (0.1, 0.2, 0.3))
    forgotten = {name: value for name, value in VIT.items() if name != "num_heads"}
    with pytest.raises(ValueError, match=r"of a network with \{'num_heads': 2\}"):
        VisionEncoder("eva_giant_patch14_clip_224", str(tmp_path / "timm"), model_args=forgotten)


def test_a_random_encoder_for_timm_is_told_of_where_it_is_used(native, languages, tmp_path, capsys):
    run = native("mini_opt", {"name": str(languages["opt"])}, {"weights": "random"})
    exported(run, tmp_path / "timm", "timm")
    assert "RANDOM, as it was made" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"image encoder eva_giant.* RANDOM weights \(as the config\.json beside"):
        VisionEncoder("eva_giant_patch14_clip_224", str(tmp_path / "timm"), model_args=VIT)
