"""Tiny models of Hugging Face's BLIP-2 classes with random weights, and our parts with the same sizes."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import save_file
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig, Blip2VisionConfig

from lit_blip2.checkpoint import trainable_state
from lit_blip2.exchange.run import checkpoint
from lit_blip2.lit.generation import Generation
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.model.vision import build as build_vision
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.stage1 import Stage1
from lit_blip2.params import build_net

VIT = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0)
QFORMER = dict(num_queries=4, hidden=24, layers=3, heads=2, intermediate=32, vocab_size=40, dropout=0.0)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """transformers starts the queries at zero and the ViT almost there: a mistake in them would not show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def hf_config() -> dict:
    vision = Blip2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    qformer = Blip2QFormerConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        cross_attention_frequency=2, encoder_hidden_size=16, use_qformer_text_input=True,
    )  # fmt: skip
    return dict(vision_config=vision.to_dict(), qformer_config=qformer.to_dict(), num_query_tokens=4)


@pytest.fixture(scope="session")
def hf_retrieval(hf_config) -> Blip2ForImageTextRetrieval:
    return randomise(Blip2ForImageTextRetrieval(Blip2Config(**hf_config, image_text_hidden_size=12)))


@pytest.fixture
def stage1(tmp_path):
    """Stage1 around an encoder with given weights."""

    def make(encoder: dict[str, torch.Tensor]) -> Stage1:
        save_file({name: value.contiguous() for name, value in encoder.items()}, tmp_path / "vit.safetensors")
        net = Stage1(
            vision=VisionEncoder(
                "eva_giant_patch14_clip_224", str(tmp_path / "vit.safetensors"), model_args=VIT, drop_last_blocks=0
            ),
            qformer=partial(QFormer, **QFORMER), tokenizer="none", itc=partial(ITC, projection=12), itm=ITM, itg=ITG,
        )  # fmt: skip
        net.tokenizer = SimpleNamespace(dec=39)
        net.vision.load()
        return net.eval()

    return make


def encoder_file(folder: Path, name: str = "eva_giant_patch14_clip_224", **sizes) -> Path:
    """Random weights of a tiny ViT, under timm's names."""
    state = build_vision(name, VIT | sizes, 0).state_dict()
    generator = torch.Generator().manual_seed(0)
    file = folder / "own_vit.safetensors"
    save_file({n: 0.2 * torch.randn(v.shape, generator=generator) for n, v in state.items() if "k_bias" not in n}, file)
    return file


@pytest.fixture
def native(tmp_path) -> Callable[..., Path]:
    """A run as `fit` leaves it, with random weights: an experiment's, but for a tiny encoder and a language model."""

    def make(experiment: str, language=None, vision=None, name: str = "native", change=lambda net: None) -> Path:
        config = yaml.safe_load(Path(f"experiments/{experiment}.yaml").read_text())
        model = config["model"]["init_args"]
        net = model["net"] = model["net"].get("init_args", model["net"])
        net["vision"] = {
            "name": "eva_giant_patch14_clip_224",
            "weights": str(encoder_file(tmp_path)),
            "model_args": VIT,
        }
        net["vision"] |= {"drop_last_blocks": 1} | (vision or {})
        config["data"]["init_args"] |= {"image_size": net["vision"].get("image_size") or VIT["img_size"]}
        if language is not None:
            net["language"] = {"dtype": "float32"} | language
            given = inspect.signature(Generation).parameters.items()
            model |= {key: each.default for key, each in given if key != "net" and key not in model}
        change(net)
        made = build_net(config)
        if not made.vision.frozen:
            made.vision.load()
        generator = torch.Generator().manual_seed(1)
        state = {f"net.{n}": 0.3 * torch.randn(v.shape, generator=generator) for n, v in trainable_state(made).items()}
        state |= {key: torch.tensor(0.06) for key in state if key.endswith("temperature")}
        file = tmp_path / name / "version_0/checkpoints/last.ckpt"
        file.parent.mkdir(parents=True)
        text = yaml.safe_dump(config)
        (file.parent.parent / "config.yaml").write_text(text)
        torch.save(checkpoint(state, text), file)
        return tmp_path / name

    return make
