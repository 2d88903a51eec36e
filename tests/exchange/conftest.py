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
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    T5Config,
)

from lit_blip2.checkpoint import trainable_state
from lit_blip2.config import read
from lit_blip2.exchange import hugging_face
from lit_blip2.exchange.run import checkpoint, kept_of, write_run
from lit_blip2.lit.evaluators.generation import Generation
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.network import sketch
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.stage1 import Stage1
from tests.exchange.tiny import OPT, QFORMER, T5, VIT, encoder_file, randomise, saved


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


@pytest.fixture(scope="session")
def generation(hf_config, tmp_path_factory):
    """family -> (model, its folder)."""
    made = {}
    words = len(AutoTokenizer.from_pretrained(OPT))
    sizes = {
        "opt": OPTConfig(
            vocab_size=words + 1, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
            max_position_embeddings=64, word_embed_proj_dim=16,
        ),
        "t5": T5Config(
            vocab_size=len(AutoTokenizer.from_pretrained(T5)) + 1, d_model=16, d_kv=8, d_ff=32, num_layers=2,
            num_heads=2, decoder_start_token_id=0, tie_word_embeddings=False,
        ),
    }  # fmt: skip
    for family, tokenizer in (("opt", OPT), ("t5", T5)):
        given = hf_config | {"text_config": sizes[family].to_dict(), "image_token_index": words}
        model = randomise(Blip2ForConditionalGeneration(Blip2Config(**given)))
        made[family] = model, saved(model, tokenizer, tmp_path_factory.mktemp(family) / "hf")
    return made


@pytest.fixture
def imported(tmp_path):
    def make(folder: Path, experiment: str) -> Path:
        foreign = hugging_face.read(folder)
        write_run(foreign, Path(f"experiments/{experiment}.yaml"), tmp_path / "run", folder)
        return tmp_path / "run"

    return make


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


@pytest.fixture
def native(tmp_path) -> Callable[..., Path]:
    """A run as `fit` leaves it, with random weights: an experiment's, but for a tiny encoder and a language model."""

    def make(experiment: str, language=None, vision=None, name: str = "native", change=lambda net: None) -> Path:
        config = read(Path(f"experiments/{experiment}.yaml"))
        model, net = config.model, config.net
        net["vision"] = {
            "name": "eva_giant_patch14_clip_224",
            "weights": str(encoder_file(tmp_path)),
            "model_args": VIT,
        }
        net["vision"] |= {"drop_last_blocks": 1} | (vision or {})
        config.data["image_size"] = net["vision"].get("image_size") or VIT["img_size"]
        if language is not None:
            net["language"] = {"dtype": "float32"} | language
            given = inspect.signature(Generation).parameters.items()
            model |= {key: each.default for key, each in given if key != "net" and key not in model}
        change(net)
        made = sketch(config)
        if not made.vision.frozen:
            made.vision.load()
        generator = torch.Generator().manual_seed(1)
        state = {f"net.{n}": 0.3 * torch.randn(v.shape, generator=generator) for n, v in trainable_state(made).items()}
        state |= {key: torch.tensor(0.06) for key in state if key.endswith("temperature")}
        file = tmp_path / name / "version_0/checkpoints/last.ckpt"
        file.parent.mkdir(parents=True)
        text = yaml.safe_dump(config.settings)
        (file.parent.parent / "config.yaml").write_text(text)
        torch.save(checkpoint(state, text, kept_of(made, config)), file)
        return tmp_path / name

    return make
