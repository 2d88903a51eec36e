"""Folders of language models: read whole or refused, and nothing in them changes how it generates."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from lit_blip2.model.language import LanguageModel
from tests.model.test_language import FAMILIES, PROMPTS, WORDS, word_tokenizer


@pytest.fixture
def folder(tmp_path):
    """Of an OPT, and its weights."""
    FAMILIES["opt"]().save_pretrained(tmp_path)
    word_tokenizer(False).save_pretrained(tmp_path)
    return tmp_path, load_file(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if "fc1.weight" not in k}, r"missing model\.\S*fc1\.weight \(2 such\)"),
        (
            lambda s: {k: v[:-1] if "fc1.w" in k else v for k, v in s.items()},
            r"mismatched model\.\S*fc1\.weight \(2 such\)",
        ),
    ],
)
def test_a_folder_that_does_not_hold_the_model_is_refused(folder, change, words):
    """transformers leaves what is missing random."""
    place, state = folder
    save_file(change(state), place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"the language model in {place}: {words}"):
        LanguageModel(str(place), dtype="float32").load()


def test_a_cut_file_and_one_with_more_are_said(folder):
    place, state = folder
    more = {"surprise": torch.ones(1), "model.decoder.layers.0.attn.masked_bias": torch.ones(1)}  # one is of old files
    save_file(state | more, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"unexpected surprise \(1 such\), left out"):
        LanguageModel(str(place), dtype="float32").load()
    (place / "model.safetensors").write_bytes((place / "model.safetensors").read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        LanguageModel(str(place), dtype="float32").load()
    (place / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=r"cannot be read: model\.safetensors is a pointer of Git LFS"):
        LanguageModel(str(place), dtype="float32").load()


def test_no_bar_of_transformers_is_shown_while_weights_are_read(folder, capfd):
    logging.enable_progress_bar()
    LanguageModel(str(folder[0]), dtype="float32").load()
    assert "Loading weights" not in capfd.readouterr().err and logging.is_progress_bar_enabled()


def test_generation_is_as_it_is_asked_for_whatever_the_folder_says(folder):
    place, _ = folder
    prefix_BPD = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(1))
    said = []
    for own in ({}, {"repetition_penalty": 9.0, "no_repeat_ngram_size": 1, "min_new_tokens": 6}):
        (place / "generation_config.json").write_text(json.dumps(own))
        language = LanguageModel(str(place), dtype="float32")
        language.load()
        said.append(language.generate(prefix_BPD, PROMPTS, max_new_tokens=6, num_beams=1))
    assert said[0] == said[1] and any(said[0])


def test_a_model_that_the_hub_s_client_has_downloaded_is_found_by_name(tmp_path, monkeypatch):
    """As huggingface_hub lays it out: a folder of the repository, and in it one of each revision."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    FAMILIES["opt"]().save_pretrained(folder / "snapshots/abc")
    word_tokenizer(False).save_pretrained(folder / "snapshots/abc")
    language = LanguageModel("org/tiny", dtype="float32")
    language.load()
    assert language.width == 12 and len(language.tokenizer) == len(WORDS)
    with pytest.raises(FileNotFoundError, match="org/other"):
        LanguageModel("org/other")


def test_random_weights_are_asked_for_said_and_the_same_each_time(folder):
    place, state = folder
    (place / "model.safetensors").unlink()
    made = []
    for _ in range(2):
        torch.rand(1)
        before = torch.get_rng_state()
        made.append(LanguageModel(str(place), weights="random", dtype="float32"))
        with pytest.warns(UserWarning, match="has RANDOM weights"):
            made[-1].load()
        assert torch.equal(torch.get_rng_state(), before)
    first, second = (each.model.state_dict() for each in made)
    assert all(torch.equal(value, second[name]) for name, value in first.items()) and first.keys() >= state.keys()
    assert first["model.decoder.layers.0.fc1.weight"].std() > 0
    losses = [each.loss(None, each.tokenise(PROMPTS, ["w7", "w8", "w9"]))[0] for each in made]
    assert torch.equal(*losses) and losses[0].isfinite().all()


def test_random_weights_without_a_tokenizer_say_where_it_is_looked_for():
    with pytest.raises(FileNotFoundError, match=r"Random weights still need .* --model.net.language.name"):
        LanguageModel("facebook/opt-2.7b", weights="random").load()
