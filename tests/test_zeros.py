"""Weights behind the place where a copy was cut off are zeros: they are named."""

import warnings

import pytest
import safetensors.torch
import timm
import torch

from lit_blip2.contents import DataError
from lit_blip2.exchange.files import read_weights
from lit_blip2.model.bert import read_bert
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.zeros import FIRST, check_zeros
from tests.model.test_language import FAMILIES, word_tokenizer
from tests.model.test_vision import ARGS, NAME


def cut(file, share):
    """A file whose end is zeros, as a file system leaves it that had made room for the whole."""
    content = file.read_bytes()
    kept = int(len(content) * share)
    file.write_bytes(content[:kept] + bytes(len(content) - kept))


@pytest.fixture
def language(tmp_path):
    model = FAMILIES["opt"]()
    for value in model.parameters():
        torch.nn.init.normal_(value)
    model.save_pretrained(tmp_path)
    word_tokenizer(False).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def vision(tmp_path):
    state = {k: torch.randn(v.shape) for k, v in timm.create_model(NAME, num_classes=0, **ARGS).state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors", state


def test_a_language_model_that_was_cut_off_is_refused(language):
    cut(language / "model.safetensors", 0.5)
    with pytest.raises(
        DataError, match=r"language model in .*: all zeros: the \d+ weights of .*layers\.1\.\*: .*cut off"
    ):
        LanguageModel(str(language), dtype="float32").load()


def test_an_encoder_that_was_cut_off_is_refused(vision):
    cut(vision[0], 0.5)
    with pytest.raises(DataError, match=r"vit\.safetensors, for image encoder .*: all zeros: .*cut off"):
        VisionEncoder(NAME, str(vision[0]), model_args=ARGS).load()
    cut(vision[0], 0.2)
    with pytest.raises(DataError, match=r"vit\.safetensors: all zeros: the .* weights of blocks\.\d\.\*"):
        read_weights(vision[0])


def test_a_zero_embedding_is_refused(language, vision, tmp_path):
    file, state = vision
    safetensors.torch.save_file(state | {"patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)}, file)
    with pytest.raises(DataError, match=r"all zeros: patch_embed\.proj\.weight: "):
        VisionEncoder(NAME, str(file), model_args=ARGS).load()
    words = "bert.embeddings.word_embeddings.weight"
    safetensors.torch.save_file({words: torch.zeros(9, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"BERT in .*: all zeros: embeddings\.word_embeddings\.weight"):
        read_bert(str(tmp_path))


def test_a_single_matrix_of_zeros_is_told_and_read(vision):
    """Some begin there, such as the outputs of blocks that were added later."""
    file, state = vision
    name = "blocks.0.attn.proj.weight"
    safetensors.torch.save_file(state | {name: torch.zeros_like(state[name])}, file)
    encoder = VisionEncoder(NAME, str(file), model_args=ARGS)
    with pytest.warns(UserWarning, match=rf"all zeros: {name}\. Unless this is meant, .*get it again"):
        encoder.load()
    assert encoder.encoder is not None


def test_what_may_be_zero_is_not_told():
    """Vectors, single rows, the second matrix of a low-rank change, experts that fill a place, whole numbers; a number
    behind many zeros counts."""
    late = torch.zeros(2, FIRST)
    late[1, 7] = 1
    weights = {"a.bias": torch.zeros(5), "b.weight": torch.zeros(1, 5), "late": late, "whole": torch.zeros(3, 3).long()}
    weights |= {"layers.0.lora_B.weight": torch.zeros(4, 4), "layers.0.norm.weight": torch.ones(4)}
    weights |= {"none": torch.zeros(0, 4), "meta": torch.zeros(3, 3, device="meta")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_zeros(weights, "file", ["late"])
    with pytest.warns(UserWarning, match=r"experts\.0\.up, experts\.0\.down"):
        check_zeros({"experts.0.up": torch.zeros(3, 3), "experts.0.down": torch.zeros(3, 3)}, "file")
