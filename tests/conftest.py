"""Small parts that many tests build: a Q-Former tokenizer, a stage-1 network, texts and features."""

from functools import partial

import pytest
import torch

from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.stage1 import Stage1

VISION = dict(img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=2)


class StandInTokenizer:
    """Only what Stage1's forward asks for: the id of [DEC]."""

    dec = 3


@pytest.fixture
def make_stage1():
    """Stage 1 with the objectives named, tiny and random; equal calls give equal weights."""

    def make(*objectives: str, seed: int = 0, **sizes) -> Stage1:
        torch.manual_seed(seed)
        qformer = dict(hidden=16, layers=3, heads=2, intermediate=24, dropout=0.0, vocab_size=40, num_queries=3)
        parts = dict(itc=partial(ITC, projection=8), itm=ITM, itg=ITG)
        net = Stage1(
            VisionEncoder("vit_tiny_patch16_224", model_args=VISION),
            partial(QFormer, **(qformer | sizes)),
            tokenizer="",
            max_text_tokens=12,
            **{name: parts[name] for name in objectives},
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        net.tokenizer = StandInTokenizer()
        return net

    return make


@pytest.fixture
def make_batch():
    """(features, texts, image ids, uniform numbers) of a batch; texts of 3 to 11 tokens."""

    def make(size: int, seed: int = 0, lengths: list[int] | None = None):
        generator = torch.Generator().manual_seed(seed)
        lengths = lengths or torch.randint(3, 12, (size,), generator=generator).tolist()
        ids = [torch.randint(5, 40, (n,), generator=generator).tolist() for n in lengths]
        features_BND = torch.randn(size, 5, 12, generator=generator)
        uniform_B2 = torch.rand(size, 2, generator=generator, dtype=torch.float64)
        return features_BND, PackedText.from_lists(ids), torch.arange(size), uniform_B2

    return make
