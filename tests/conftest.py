"""Small parts that many tests build: a Q-Former tokenizer, a stage-1 and a joint network, texts and features."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch

from lit_blip2.mini.vocabulary import opt_tokenizer
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.joint import Joint
from lit_blip2.objectives.lm import LM
from lit_blip2.objectives.stage1 import Stage1

# Autograd counts devices at the first backward of a process. Fake tensors add one to them, and with one it takes no
# forks: so that one comes first, whichever tests run before.
torch.ones((), requires_grad=True).backward()

QFORMER = dict(hidden=16, layers=3, heads=2, intermediate=24, dropout=0.0, vocab_size=40, num_queries=3)
PARTS = dict(itc=partial(ITC, projection=8), itm=ITM, itg=ITG)
VISION = dict(img_size=32, patch_size=16, embed_dim=12, depth=2, num_heads=2)


RUNS = {"fit", "made"}  # fixtures that train


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what asks for a fixture that trains (see the markers in pyproject.toml)."""
    for item in items:
        if not RUNS.isdisjoint(item.fixturenames):
            item.add_marker("run")


class StandInTokenizer:
    """Only what Stage1's forward asks for: the id of [DEC]."""

    dec = 3


@pytest.fixture
def make_stage1():
    """Stage 1 with the objectives named, tiny and random; equal calls give equal weights."""

    def make(*objectives: str, seed: int = 0, more_objectives=None, **sizes) -> Stage1:
        torch.manual_seed(seed)
        net = Stage1(
            VisionEncoder("vit_tiny_patch16_224", model_args=VISION),
            partial(QFormer, **(QFORMER | sizes)),
            tokenizer="",
            max_text_tokens=12,
            more_objectives=more_objectives,
            **{name: PARTS[name] for name in objectives},
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        net.tokenizer = StandInTokenizer()
        return net

    return make


@pytest.fixture(scope="session")
def opt_folder(tmp_path_factory):
    """A random OPT with the mini-world's words."""
    from transformers import OPTConfig, OPTForCausalLM  # seconds that most tests spare

    torch.manual_seed(0)
    folder, tokenizer = tmp_path_factory.mktemp("opt"), opt_tokenizer()
    sizes = dict(hidden_size=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=16)
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    OPTForCausalLM(OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes, **ids)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_joint(opt_folder):
    """Joint training with the objectives named, tiny and random; equal calls give equal weights."""

    def make(*objectives: str, seed: int = 0) -> Joint:
        torch.manual_seed(seed)
        net = Joint(
            VisionEncoder("vit_tiny_patch16_224", model_args=VISION),
            partial(QFormer, **QFORMER),
            tokenizer="",
            language=LanguageModel(str(opt_folder), dtype="float32"),
            lm=LM() if "lm" in objectives else None,
            max_text_tokens=12,
            **{name: PARTS[name] for name in objectives if name != "lm"},
        )
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        if net.stage1 is not None:
            net.stage1.tokenizer = StandInTokenizer()
        if net.stage2 is not None:
            net.stage2.language.load()
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


@pytest.fixture
def small_disk(tmp_path):
    """Make a disk of so many bytes of its own, in RAM; and change its size, if there is one. Needs leave to mount."""
    folder = tmp_path / "small_disk"

    def sized(size: int) -> Path:
        options = f"remount,size={size}" if folder.exists() else f"size={size}"
        folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a disk that is full for real takes leave to mount one: root")
        return folder

    yield sized
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)
