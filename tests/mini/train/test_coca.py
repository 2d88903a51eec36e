import math

import pytest
import timm
import torch
from torch.nn import functional as F

from lit_blip2.mini.train import vit as train_vit
from lit_blip2.mini.train.coca import CoCa


@pytest.fixture
def model() -> CoCa:
    torch.manual_seed(0)
    vit = timm.create_model(train_vit.VIT_NAME, **train_vit.VIT_KWARGS | {"depth": 1})
    return CoCa(vit, vocabulary=20, common=8, longest=10).eval()


@torch.no_grad()
def test_similarity_by_loops(model):
    patches, texts = torch.randn(3, 5, 128), torch.randn(2, 6, 128)
    pad = torch.arange(6)[None] >= torch.tensor([[4], [6]])
    images = F.normalize(model.image_head(patches), dim=-1)
    words = F.normalize(model.text_head(texts), dim=-1)
    expected = [
        [sum(max(w @ p for p in image) for w in text[~gone]) / (~gone).sum() for image in images]
        for text, gone in zip(words, pad, strict=True)
    ]
    torch.testing.assert_close(model.similarity(patches, texts, pad), torch.tensor(expected))


def test_a_word_knows_only_those_before_it(model):
    tokens = torch.randint(20, (2, 6))
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 20
    before, after = model.encode_texts(tokens), model.encode_texts(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_losses_of_a_model_that_knows_nothing(model):
    """Equal images and all-equal words: every pair is as likely, and so is every word."""
    model.words.weight.data.zero_()
    pad = torch.zeros(4, 6, dtype=torch.bool)
    contrast, caption = model.losses(torch.zeros(4, 3, 64, 64), torch.zeros(4, 6, dtype=torch.long), pad)
    assert contrast.item() == pytest.approx(math.log(4), abs=1e-5)
    assert caption.item() == pytest.approx(math.log(20), abs=1e-5)


def test_padding_is_never_a_target(model):
    images, tokens = torch.randn(2, 3, 64, 64), torch.randint(20, (2, 6))
    pad = torch.arange(6)[None] >= torch.tensor([[4], [3]])
    other = torch.where(pad, (tokens + 1) % 20, tokens)
    torch.testing.assert_close(model.losses(images, tokens, pad), model.losses(images, other, pad))
