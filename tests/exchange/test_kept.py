"""A run's files may change after it: what is written of it then, or answers, is refused by the name of what differs."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from lit_blip2.checkpoint import read_checkpoint
from lit_blip2.commands.convert import main
from lit_blip2.inference import load
from tests.exchange.tiny import OPT

pytestmark = pytest.mark.run


def scaled(file, factor):
    """Other weights of the same shapes."""
    save_file({name: factor * value for name, value in load_file(file).items()}, file, metadata={"format": "pt"})


def rewritten(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def halved_heads(content):
    content["num_attention_heads"] //= 2


def swapped_words(content):
    words = content["model"]["vocab"]
    one, two = [word for word in words if word.isalpha()][:2]
    words[one], words[two] = words[two], words[one]


def grey(folder):
    card = {"architecture": "eva_giant_patch14_clip_224", "pretrained_cfg": {"mean": [0.4] * 3, "std": [0.4] * 3}}
    (folder / "config.json").write_text(json.dumps(card))


CHANGES = {
    "encoder": (lambda folder: scaled(folder / "own_vit.safetensors", -0.7), "vision.weights"),
    "looks": (grey, "vision.mean"),
    "language model": (lambda folder: scaled(folder / "opt/model.safetensors", 1.2), "language.weights"),
    "heads": (lambda folder: rewritten(folder / "opt/config.json", halved_heads), "num_attention_heads"),
    "tokenizer": (lambda folder: rewritten(folder / "opt/tokenizer.json", swapped_words), "language.tokenizer.digest"),
}


@pytest.mark.parametrize(
    ("what", "side"),
    [(what, "hf") for what in CHANGES] + [(what, side) for what in ("encoder", "looks") for side in ("lavis", "timm")],
)
def test_no_export_of_a_run_whose_files_have_changed(native, tmp_path, capsys, what, side):
    shutil.copytree(OPT, tmp_path / "opt")
    run = native("mini_opt", language={"name": str(tmp_path / "opt")})
    change, named = CHANGES[what]
    how = [f"--checkpoint={run}", f"--to={side}"]
    assert main("export", [*how, f"--out={tmp_path / 'before'}"]) == 0
    change(tmp_path)
    assert main("export", [*how, f"--out={tmp_path / 'after'}"]) == 2
    assert "was made with other settings" in (said := capsys.readouterr().err) and named in said
    assert not (tmp_path / "after").exists()


def test_the_encoder_alone_needs_no_language_model(native, tmp_path):
    shutil.copytree(OPT, tmp_path / "opt")
    run, how = native("mini_opt", language={"name": str(tmp_path / "opt")}, vision={"frozen": False}), ["--to=timm"]
    assert main("export", [f"--checkpoint={run}", *how, f"--out={tmp_path / 'one'}"]) == 0
    shutil.rmtree(tmp_path / "opt")
    assert main("export", [f"--checkpoint={run}", *how, f"--out={tmp_path / 'two'}"]) == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_tokenizer_that_has_moved_has_a_way_back(native, tmp_path, capsys):
    """An export has no option for it, as for the encoder and the language model."""
    shutil.copytree("lit_blip2/mini/weights/bert", tmp_path / "bert")
    run = native("mini_stage1", change=lambda net: net.update(tokenizer=str(tmp_path / "bert")))
    (tmp_path / "bert").rename(tmp_path / "moved")
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'out'}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"no file or folder '{tmp_path / 'bert'}'" in said and "or put it at that path: ask, caption and export" in said
    )
    (tmp_path / "moved").rename(tmp_path / "bert")
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'out'}"]) == 0


def test_an_export_to_hugging_face_is_of_the_words_that_stage_1_was_trained_with(native, tmp_path, capsys):
    shutil.copytree("lit_blip2/mini/weights/bert", tmp_path / "bert")
    run = native("mini_stage1", change=lambda net: net.update(tokenizer=str(tmp_path / "bert")))
    rewritten(tmp_path / "bert/tokenizer.json", swapped_words)
    assert main("export", [f"--checkpoint={run}", "--to=hf", f"--out={tmp_path / 'out'}"]) == 2
    assert "tokenizer.digest" in capsys.readouterr().err


def test_an_import_keeps_the_settings_that_training_would(generation, imported):
    run = imported(generation["opt"][1], "mini_opt")
    kept = read_checkpoint(run)["settings"]
    assert kept["image_size"] == 8 and kept["language.config.num_attention_heads"] == 2
    assert {"vision.weights", "language.weights", "language.tokenizer.digest", "vision.mean"} <= kept.keys()
    load(run)
    rewritten(run / "weights/language/config.json", halved_heads)
    with pytest.raises(ValueError, match=r"language\.config\.num_attention_heads 2, here 1"):
        load(run)


def test_an_import_beside_a_language_model_that_is_not_there_yet(native, tmp_path):
    """LAVIS' file does not hold it: what is known without it is kept."""
    shutil.copytree(OPT, tmp_path / "opt")
    run = native("mini_opt", language={"name": str(tmp_path / "opt")})
    assert main("export", [f"--checkpoint={run}", "--to=lavis", f"--out={tmp_path / 'x.pth'}"]) == 0
    config = f"--config={run / 'version_0/config.yaml'}"
    (tmp_path / "opt/model.safetensors").unlink()
    assert main("import", [str(tmp_path / "x.pth"), "--from=lavis", f"--out={tmp_path / 'again'}", config]) == 0
    kept = read_checkpoint(tmp_path / "again")["settings"]
    assert kept["language.model_type"] == "opt" and "vision.weights" in kept and "language.weights" not in kept
