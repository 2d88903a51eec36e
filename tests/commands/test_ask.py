"""`ask` and `caption` on a tiny random stage-2 checkpoint: what they print, and what they say when they cannot."""

import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from transformers import OPTConfig, OPTForCausalLM

from lit_blip2 import inference
from lit_blip2.checkpoint import trainable_state
from lit_blip2.commands import ask
from lit_blip2.config import Experiment
from lit_blip2.data.images import load_image
from lit_blip2.data.transforms import eval_view
from lit_blip2.mini.vocabulary import opt_tokenizer
from lit_blip2.network import build_net

SIZE = 32
VISION = {"img_size": SIZE, "patch_size": 16, "embed_dim": 12, "depth": 2, "num_heads": 2}
QUESTION = "what shape is the red object ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frozen weights, an image, and a stage-2 run whose words are far from random: big weights, so images differ."""
    folder = tmp_path_factory.mktemp("ask")
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VISION)
    torch.save(vit.state_dict(), folder / "vit.pth")
    tokenizer = opt_tokenizer()
    sizes = dict(hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2)
    special = dict(vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=1)
    language = OPTForCausalLM(OPTConfig(**special, **sizes, max_position_embeddings=64, init_std=0.5))
    language.save_pretrained(folder / "opt")
    tokenizer.save_pretrained(folder / "opt")
    pixels = np.random.default_rng(0).integers(256, size=(40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    write_checkpoint(folder)
    return folder


def config_of(folder, **settings) -> dict:
    qformer = dict(num_queries=3, hidden=8, layers=1, heads=2, intermediate=8, dropout=0.0, vocab_size=None)
    net = dict(
        vision=dict(name="vit_tiny_patch16_224", weights=str(folder / "vit.pth"), model_args=VISION),
        language=dict(name=str(folder / "opt"), dtype="float32"),
        bridge=dict(class_path="lit_blip2.model.bridge.QFormerBridge", init_args=dict(qformer=qformer)),
        objective=dict(class_path="lit_blip2.objectives.lm.LM"),
        prompt="a",
    )
    how = dict(vqa_max_new_tokens=4, vqa_num_beams=2, vqa_length_penalty=-1.0)
    how |= dict(caption_max_new_tokens=6, caption_num_beams=1, question="Question: {} Answer:")
    model = dict(class_path="lit_blip2.lit.LitStage2", init_args=dict(net=dict(init_args=net), **(how | settings)))
    return dict(model=model, data=dict(init_args=dict(image_size=SIZE)))


def write_checkpoint(folder, **settings):
    """runs/name/version_0/checkpoints/last.ckpt as Lightning and LitBLIP2 leave it."""
    config = config_of(folder, **settings)
    file = folder / "runs/mini/version_0/checkpoints/last.ckpt"
    net = build_net(Experiment(config, "a test"))
    with torch.no_grad():
        net.bridge.projection.weight.mul_(50)
    state = {f"net.{name}": value for name, value in trainable_state(net).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state, "config": yaml.safe_dump(config)}, file)
    return file


@pytest.fixture
def run_folder(folder):
    return str(folder / "runs/mini")


@pytest.fixture
def image(folder):
    return str(folder / "image.png")


def test_answer_is_the_networks_own(folder, run_folder, image, capsys):
    """The loaded weights, the evaluation transform, the question's form and the beams: by hand, the same words."""
    net = inference.load(run_folder).net
    pixels = eval_view(load_image(image), SIZE)[None]
    with torch.no_grad():
        prompt = net.bridge(net.vision(pixels))
        wanted = net.language.generate(prompt, [f"Question: {QUESTION} Answer:"], 4, 2, -1.0)
        wanted += net.language.generate(prompt, ["a"], 6, 1)
    ask.main("ask", ["--checkpoint", run_folder, image, QUESTION])
    ask.main("caption", ["--checkpoint", run_folder, image])
    assert capsys.readouterr().out.splitlines() == wanted
    assert all(wanted) and wanted[0] != wanted[1]


def test_a_template_with_special_tokens_is_told_once(folder, run_folder, image, tmp_path):
    contents, end = torch.load(inference.find_checkpoint(run_folder), weights_only=True), opt_tokenizer().eos_token
    contents["config"] = yaml.safe_dump(config_of(folder, question=f"user\n{end}{{}} Answer:"))
    torch.save(contents, tmp_path / "last.ckpt")
    with pytest.warns(UserWarning) as warned:
        ask.main("ask", ["--checkpoint", str(tmp_path / "last.ckpt"), image, QUESTION])
    told = [said for each in warned if "names" in (said := str(each.message))]
    assert told == [
        f"the prompt 'user\\n{end}{{}} Answer:' names {end}: text is read as text, so these are letters to the "
        "language model, and not its special tokens"
    ]


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("model", "question", 5, "model.question is a number, 5, where a text is wanted"),
        ("model", "question", ["{}"], 'model.question is a list, ["{}"], where a text'),
        ("model", "question", None, "model.question is null, where a text"),
        ("model", "vqa_num_beams", 0, "model.vqa_num_beams is a number, 0, where a whole number from 1 is wanted"),
        ("model", "vqa_num_beams", "x", 'model.vqa_num_beams is a text, "x", where a whole number from 1'),
        ("model", "caption_num_beams", [3], "model.caption_num_beams is a list, [3], where"),
        ("model", "caption_max_new_tokens", True, "model.caption_max_new_tokens is true or false, true, where"),
        ("model", "vqa_length_penalty", float("nan"), "model.vqa_length_penalty is a number, NaN, where a number"),
        ("data", "image_size", "x", 'data.image_size is a text, "x", where'),
        ("data", "image_size", -5, "data.image_size is a number, -5, where"),
        ("data", "max_unknown_words", float("inf"), "data.max_unknown_words is a number, Infinity, where"),
    ],
)
def test_a_setting_of_another_type_is_refused_by_its_checkpoint(
    folder, run_folder, image, tmp_path, part, name, value, said, capsys
):
    contents = torch.load(inference.find_checkpoint(run_folder), weights_only=True)
    config = config_of(folder)
    config[part]["init_args"][name] = value
    torch.save(contents | {"config": yaml.safe_dump(config)}, tmp_path / "last.ckpt")
    for command, question in (("ask", [QUESTION]), ("caption", [])):
        assert ask.main(command, ["--checkpoint", str(tmp_path / "last.ckpt"), image, *question]) == 2
        assert f"error: {tmp_path / 'last.ckpt'}: {said}" in capsys.readouterr().err


def test_a_run_that_says_nothing_of_questions_describes_images(folder, run_folder, image, tmp_path, capsys):
    contents = torch.load(inference.find_checkpoint(run_folder), weights_only=True)
    config = config_of(folder)
    del config["model"]["init_args"]["question"]
    torch.save(contents | {"config": yaml.safe_dump(config)}, tmp_path / "last.ckpt")
    ask.main("caption", ["--checkpoint", str(tmp_path / "last.ckpt"), image])
    assert ask.main("ask", ["--checkpoint", str(tmp_path / "last.ckpt"), image, QUESTION]) == 2
    assert "has no model.question, by which a question is put" in capsys.readouterr().err


def test_weights_are_the_checkpoints(folder, run_folder):
    state = torch.load(folder / "runs/mini/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    net = inference.load(run_folder).net
    assert torch.equal(net.bridge.projection.weight, state["net.bridge.projection.weight"])
    assert not net.training and set(state) == {f"net.{name}" for name in trainable_state(net)}


def test_a_trained_language_model_answers(folder, image, tmp_path):
    """The weights that the checkpoint holds, not those on disk; a checkpoint that lacks one is refused."""
    config = config_of(folder)
    Experiment(config, "a test").language["frozen"] = False
    file = tmp_path / "last.ckpt"
    net = build_net(Experiment(config, "a test"))
    net.load()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in net.language.parameters():
            weight.copy_(torch.randn_like(weight))
    state = {f"net.{name}": value for name, value in trainable_state(net).items()}
    torch.save({"state_dict": state, "config": yaml.safe_dump(config)}, file)
    loaded = inference.load(file)
    assert not loaded.net.language.model.training
    for name, weight in net.language.named_parameters():
        assert torch.equal(loaded.net.language.get_parameter(name), weight), name
    head = loaded.net.language.model.get_output_embeddings().weight
    assert head is loaded.net.language.model.get_input_embeddings().weight
    with torch.no_grad():
        pixels = eval_view(load_image(image), SIZE)[None]
        wanted = net.eval().language.generate(
            net.bridge(net.vision(pixels)), [f"Question: {QUESTION} Answer:"], 4, 2, -1.0
        )
    assert loaded.ask(image, QUESTION) == wanted[0]
    del state["net.language.model.model.decoder.final_layer_norm.weight"]
    torch.save({"state_dict": state, "config": yaml.safe_dump(config)}, file)
    with pytest.raises(ValueError, match=r"missing language\.model\.model\.decoder\.final_layer_norm\.weight"):
        inference.load(file)


def test_question_form_and_length_come_from_the_run(folder, run_folder, image):
    try:
        write_checkpoint(folder, question="{} Short answer:", vqa_max_new_tokens=1)
        assert len(inference.load(run_folder).ask(image, QUESTION).split()) == 1
    finally:
        write_checkpoint(folder)


def picture_batch() -> torch.Tensor:
    """Three images float32 [3, 3, SIZE, SIZE]."""
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_a_batch_is_written_as_one_by_one(run_folder):
    """Prompts of unequal length about three images, two of them about the same one."""
    run, pixels, image_R = inference.load(run_folder), picture_batch(), torch.tensor([2, 0, 2, 1])
    prompts = ["a", f"Question: {QUESTION} Answer:", "is there a red star ?", "a"]
    how = dict(max_new_tokens=5, num_beams=2, length_penalty=-1.0)
    alone = [run.write(pixels[i][None], [each], **how)[0] for i, each in zip(image_R, prompts)]
    assert run.write(pixels, prompts, image_R, **how) == alone
    assert run.write(pixels, prompts[:3], **how) == run.write(pixels, prompts[:3], torch.arange(3), **how)
    assert len(set(alone)) == 3


def test_scores_are_the_language_models_own(run_folder):
    """Against its plain forward over [soft prompt; prompt; target; end], text by text without padding."""
    run, pixels, image_R = inference.load(run_folder), picture_batch(), torch.tensor([1, 1, 0])
    prompts, targets = ["a", "a", f"Question: {QUESTION} Answer:"], ["red star", "no", "a small red star"]
    losses_R, _ = run.score(pixels, prompts, targets, image_R)
    net, model, tokenizer = run.net, run.net.language.model, run.net.language.tokenizer
    for loss, image, prompt, target in zip(losses_R, image_R, prompts, targets):
        ids = torch.tensor(tokenizer(f"{prompt} {target}")["input_ids"] + [tokenizer.eos_token_id])
        with torch.no_grad():
            embeds = torch.cat(
                [net.bridge(net.vision(pixels[image][None])), model.get_input_embeddings()(ids)[None]], 1
            )
            likelihoods = model(inputs_embeds=embeds).logits[0].log_softmax(-1)
        new = len(target.split()) + 1
        wanted = -likelihoods[-new - 1 : -1].gather(1, ids[-new:, None]).mean()
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_target_is_likeliest_where_greedy_search_writes_it(run_folder, monkeypatch):
    """The end mark is left out, which a random model does not write."""
    run, pixels = inference.load(run_folder), picture_batch()[:1]
    language = run.net.language
    own = language.target_ids
    monkeypatch.setattr(language, "target_ids", lambda *texts: [ids[:-1] for ids in own(*texts)])
    (text,) = run.write(pixels, ["a"], max_new_tokens=3, num_beams=1)
    *words, last = text.split()
    other = " ".join([*words, "red" if last != "red" else "blue"])
    _, likeliest_R = run.score(pixels, ["a", "a"], [text, other], torch.tensor([0, 0]))
    assert likeliest_R.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoint", "{run}", "{image}"], "required: QUESTION"),
        (["--checkpoint", "{run}", "{image}", "  "], "the question is empty"),
        (["{image}", QUESTION], "required: --checkpoint"),
        (["--chekpoint", "{run}", "{image}", QUESTION], "unknown option --chekpoint, did you mean '--checkpoint'"),
        (["--checkpoint", "{run}", "no.png", QUESTION], "no image file 'no.png'"),
        (["--checkpoint", "{run}", "{folder}/vit.pth", QUESTION], "cannot read image .*vit.pth"),
        (["--checkpoint", "no/run", "{image}", QUESTION], "no checkpoint: 'no/run'"),
        (["--checkpoint", "{run}", "{image}", "whose cat sits"], r"100.0% of 3 words of .*question 'whose"),
        (["--checkpoint", "{image}", "{image}", QUESTION], "image.png is not a readable checkpoint: give"),
    ],
)
def test_errors_say_what_is_wrong(folder, run_folder, image, arguments, says, capsys):
    places = dict(folder=folder, run=run_folder, image=image)
    try:
        status = ask.main("ask", [each.format(**places) for each in arguments])
    except SystemExit as stopped:  # of what the parser refuses
        status = stopped.code
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and printed.err.count("error: ") == 1
    assert re.search(f"error: .*{says}", printed.err)


def test_checkpoints_that_cannot_answer(folder, image, tmp_path, capsys):
    file = tmp_path / "other.ckpt"
    good = torch.load(folder / "runs/mini/version_0/checkpoints/last.ckpt", weights_only=True)
    config = config_of(folder)
    stage1 = yaml.safe_dump(config | {"model": {"init_args": {"net": {"init_args": {"vision": {}, "itc": {}}}}}})
    wrong_weights = {**good["state_dict"], "net.bridge.extra": torch.zeros(1)}
    elsewhere = yaml.safe_dump(config).replace(str(folder / "vit.pth"), "no/vit.pth")
    renamed = yaml.safe_dump(config).replace("num_queries", "number_of_queries")
    for contents, says in (
        (good | {"config": stage1}, "stage-1 checkpoint.*no language model"),
        (good | {"config": ""}, "carries no configuration"),
        (good | {"state_dict": wrong_weights}, "does not fit this model: unexpected bridge.extra"),
        (
            good | {"settings": {"bridge.qformer.ln_vision.eps": 0.1}},
            r"ln_vision\.eps 0\.1, here 1e-05.*package, changed",
        ),
        (good | {"config": elsewhere}, "no file or folder 'no/vit.pth'"),
        (good | {"config": elsewhere}, "put it at that path: ask, caption and export, which have no such option"),
        (good | {"config": renamed}, "does not fit this version"),
    ):
        torch.save(contents, file)
        assert ask.main("ask", ["--checkpoint", str(file), image, QUESTION]) == 2
        assert re.search(says, capsys.readouterr().err)


def test_unknown_words_of_a_question_are_said(run_folder, image, capsys):
    said = r"16.7% of 6 words of the question 'what color is the zebra \?' are unknown to the tokenizer .* \(zebra\)"
    with pytest.warns(UserWarning, match=said):
        ask.main("ask", ["--checkpoint", str(run_folder), image, "what color is the zebra ?"])
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("command", ["ask", "caption"])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask.main(command, ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and f"python -m lit_blip2 {command} --checkpoint runs/mini_opt image.png" in shown


@pytest.mark.run
def test_nothing_else_on_standard_output_and_no_trainer(run_folder, image):
    code = (
        "import sys, runpy; sys.argv = ['lit_blip2', *sys.argv[1:]]\n"
        "try: runpy.run_module('lit_blip2', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'lightning' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "ask", "--checkpoint", run_folder, image, QUESTION]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == inference.load(run_folder).ask(image, QUESTION) + "\n" and not result.stderr
