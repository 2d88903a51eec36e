"""Models made on demand: complete or absent, equal from equal seeds, and of the sizes that the experiments need."""

import json
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lit_blip2.ablation.spec.read import read_grid
from lit_blip2.commands import mini as command
from lit_blip2.commands.data import configs_joined, parser
from lit_blip2.commands.data import main as data_command
from lit_blip2.data.features.store import FeatureStore
from lit_blip2.mini.train import bert as train_bert
from lit_blip2.mini.train import language as train_lm
from lit_blip2.mini.train import on_demand
from lit_blip2.mini.train import prompter as train_prompter
from lit_blip2.mini.train import vit as train_vit
from lit_blip2.mini.train.on_demand import MAKERS, make_model
from lit_blip2.model import masks
from lit_blip2.model.bert import load_bert
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.qformer import Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itg import ITG

ABLATIONS = sorted(Path("ablations").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def little_work():
    with pytest.MonkeyPatch.context() as patch:
        for module, pairs in ((train_lm, 10), (train_vit, 4), (train_bert, 20), (train_prompter, 2)):
            patch.setattr(module, "BATCH", 4)
            patch.setattr(module, "CHECK_PAIRS", pairs)
        yield


@pytest.fixture(scope="module")
def made(little_work, tmp_path_factory):
    """name -> folder of the model after two steps, made once."""
    out, folders = tmp_path_factory.mktemp("models"), {}

    def make(name: str) -> Path:
        if name not in folders:
            folders[name] = make_model(name, out, seed=1, steps=2)
        return folders[name]

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize("name", MAKERS)
def test_every_model_is_made(made, name):
    figures = json.loads((made(name) / "figures.json").read_text())
    assert figures["settings"].items() >= {"model": name, "seed": 1, "steps": 2}.items()


@pytest.mark.parametrize("name", ["vit_small", "opt_small", "opt_instruct", "bert"])
def test_equal_seeds_make_equal_models(made, tmp_path, name):
    a, b = weights(made(name)), weights(make_model(name, tmp_path, seed=1, steps=2))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["vit_small", "bert"])
def test_another_seed_makes_another_model(made, tmp_path, name):
    a, b = weights(made(name)), weights(make_model(name, tmp_path, seed=2, steps=2))
    assert any(not torch.equal(a[k], b[k]) for k in a)


def test_the_command_offers_every_model():
    assert get_args(command.Model) == tuple(MAKERS)


@pytest.mark.run
def test_what_is_there_is_left_and_other_settings_are_refused(tmp_path, capsys):
    file = make_model("bert", tmp_path, steps=2) / "model.safetensors"
    before = file.stat().st_mtime_ns
    make_model("bert", tmp_path, steps=2)
    assert file.stat().st_mtime_ns == before and "is there already" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"holds a model of seed=0 \(wanted 1\), steps=2 \(wanted 3\): remove it"):
        make_model("bert", tmp_path, seed=1, steps=3)


@pytest.mark.run
def test_another_recipe_is_refused(tmp_path, monkeypatch):
    make_model("bert", tmp_path, steps=2)
    monkeypatch.setattr(train_bert, "PEAK_LR", 5.0)
    with pytest.raises(ValueError, match=r"holds a model of peak_lr=0.002 \(wanted 5.0\)"):
        make_model("bert", tmp_path, steps=2)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "bert").mkdir()
    with pytest.raises(ValueError, match=r"is no complete model \(.*figures\.json is missing\)"):
        make_model("bert", tmp_path, steps=2)


def test_an_interrupted_model_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder, seed, steps):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(on_demand.MAKERS, "bert", lambda: on_demand.Maker(interrupted, 2, {}))
    with pytest.raises(KeyboardInterrupt):
        make_model("bert", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bert_starts_the_mini_q_former(made):
    folder = made("bert")
    net = yaml.safe_load(Path("experiments/mini_stage1.yaml").read_text())["model"]["init_args"]["net"]
    qformer = QFormer(net["vision"]["model_args"]["embed_dim"], **net["qformer"]).eval()
    head = ITG(qformer.hidden, net["qformer"]["vocab_size"])
    load_bert(qformer, head, str(folder))
    model = train_bert.BertForMaskedLM.from_pretrained(folder).eval()
    assert not model.bert.embeddings.token_type_embeddings.weight.any()
    ids = [[2, 13, 51, 23, 3], [2, 13, 61, 3]]
    (output,) = qformer([Pass(masks.UNIMODAL, text=PackedText.from_lists(ids))])
    logits_LV = head.logits(output.text_LD, qformer.word_embeddings.weight)
    theirs_LV = torch.cat([model(torch.tensor([each])).logits[0] for each in ids])
    torch.testing.assert_close(logits_LV, theirs_LV, atol=1e-5, rtol=1e-5)


def test_masks_hide_words_only():
    tokenizer = train_bert.bert_tokenizer()
    token_BL = tokenizer(["a red circle", "a large blue ring and a star"] * 500, padding=True, return_tensors="pt")[
        "input_ids"
    ]
    shown_BL, asked_BL = train_bert.masked(token_BL, tokenizer, train_bert.stream_rng(0, "text", 0, 2))
    words_BL = token_BL > tokenizer.convert_tokens_to_ids("[DEC]")
    assert not asked_BL[~words_BL].any() and torch.equal(shown_BL[~asked_BL], token_BL[~asked_BL])
    assert asked_BL[words_BL].float().mean() == pytest.approx(train_bert.MASKED, abs=0.02)
    assert (shown_BL[asked_BL] == tokenizer.unk_token_id).float().mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("name, width", [("opt_small", 64), ("opt_instruct", 128)])
def test_the_opt_loads_as_a_language_model(made, name, width):
    language = LanguageModel(str(made(name)), dtype="float32")
    language.load()
    assert language.width == width
    assert len(language.generate(None, ["a red circle", "a ring"], max_new_tokens=2, num_beams=1)) == 2


@pytest.mark.parametrize("name", ["opt_instruct", "opt_longer"])
def test_tuning_begins_from_the_shipped_weights(made, name):
    shipped, tuned = load_file(on_demand.SHIPPED_OPT / "model.safetensors"), weights(made(name))
    assert shipped.keys() == tuned.keys()
    for key, value in shipped.items():
        torch.testing.assert_close(tuned[key], value, atol=2e-3, rtol=0)


def test_features_of_another_encoder(made, tmp_path, monkeypatch):
    """What encoder_size.yaml prepares is what its cells read."""
    root, encoder, grid = tmp_path / "data/mini", made("vit_small"), read_grid("ablations/encoder_size.yaml")
    command.make_mini(root, train=4, val=2, test=2, workers=1, features=False)
    shutil.copytree(encoder, tmp_path / "data/models/vit_small")
    shutil.copytree("experiments", tmp_path / "experiments")
    small = grid.axes["encoder"]["small"]
    vision = VisionEncoder(
        train_vit.VIT_NAME, str(encoder / "vit.safetensors"), model_args=small["stage1.model.net.vision.model_args"]
    )
    monkeypatch.chdir(tmp_path)
    assert data_command(shlex.split(grid.prepare[-1])[1:] + ["--processes=1"]) == 0
    store = FeatureStore(root / small["stage1.data.features"] / "train")
    assert (store.layout.tokens, store.layout.width) == (65, 64)
    store.check(vision.fingerprint() | {"image_size": 64})


@pytest.mark.parametrize("file", ABLATIONS, ids=lambda file: file.stem)
def test_what_an_ablation_prepares_are_commands(file):
    for line in read_grid(file).prepare:
        data, *arguments = shlex.split(line)
        assert data == "data"
        parser().parse_args(configs_joined(arguments))
