"""Initialises the Q-Former from BERT (docs/numerics.md, Q-Former). Text half and self-attention become BERT's, query
feed-forwards copy the text ones, and cross-attention stays random."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lit_blip2.checkpoint import read_safely
from lit_blip2.contents import read_object, reading
from lit_blip2.model.qformer import QFormer
from lit_blip2.paths import find
from lit_blip2.zeros import check_zeros

WORDS = "embeddings.word_embeddings.weight"
WAY_OUT = (
    "Get it (hf download google-bert/bert-base-uncased --local-dir weights/bert-base-uncased) and point --model.bert "
    "to it, or set it to null for a random start."
)


def read_bert(folder: str) -> dict[str, Tensor]:
    """BERT's weights by name, without the prefix `bert.`, from safetensors or a .bin without pickled code."""
    path = find(folder, "BERT", WAY_OUT)
    if (path / "model.safetensors").exists():
        from safetensors.torch import load_file

        with reading(path / "model.safetensors", "file of weights"):
            state = load_file(path / "model.safetensors")
    else:
        state = read_safely(find(Path(path, "pytorch_model.bin"), "BERT", WAY_OUT))
    names = {key: key.removeprefix("bert.").replace("gamma", "weight").replace("beta", "bias") for key in state}
    state = {names[key]: value for key, value in state.items()}
    check_zeros(state, f"BERT in {path}", [WORDS])
    return state


@torch.no_grad()
def load_bert(qformer: QFormer, head: nn.Module | None, folder: str) -> None:
    """Copy BERT into a Q-Former, with or without text half, and into ITG's head where there is one.

    Raises FileNotFoundError, KeyError naming a weight the folder lacks, or ValueError for sizes that differ.
    """
    state = read_bert(folder)
    _check_sizes(qformer, state, folder)
    _copy(qformer.embedding_norm, state, "embeddings.LayerNorm")
    if qformer.word_embeddings is not None:
        words = state[WORDS]
        if qformer.word_embeddings.num_embeddings - len(words) not in (0, 1):
            raise ValueError(
                f"BERT in {folder} has {len(words)} words, the Q-Former needs vocab_size="
                f"{qformer.word_embeddings.num_embeddings}, or one less ([DEC] is then its own)"
            )
        qformer.word_embeddings.weight[: len(words)] = words
        qformer.position_embeddings.weight.copy_(state["embeddings.position_embeddings.weight"])
    for index, layer in enumerate(qformer.layers):
        _copy_layer(layer, state, f"encoder.layer.{index}.")
    if head is not None and "cls.predictions.bias" in state:
        _copy(head.transform, state, "cls.predictions.transform.dense")
        _copy(head.norm, state, "cls.predictions.transform.LayerNorm")
        bias = state["cls.predictions.bias"]
        head.bias[: len(bias)] = bias


def _check_sizes(qformer: QFormer, state: dict[str, Tensor], folder: str) -> None:
    """Raises ValueError that names every size in which BERT and the Q-Former differ. The number of heads and the model
    type come from BERT's config.json, if there is one, because shapes do not show them."""
    intermediate, hidden = state["encoder.layer.0.intermediate.dense.weight"].shape
    layers = len({key.split(".")[2] for key in state if key.startswith("encoder.layer.")})
    sizes = {
        "hidden": (hidden, qformer.hidden),
        "layers": (layers, len(qformer.layers)),
        "intermediate": (intermediate, qformer.layers[0].query_mlp.expand.out_features),
    }
    if qformer.position_embeddings is not None:
        positions = len(state["embeddings.position_embeddings.weight"])
        sizes["max_positions"] = (positions, qformer.position_embeddings.num_embeddings)
    if (file := find(folder, "BERT", WAY_OUT) / "config.json").is_file():
        told = {"model_type": "bert", "num_attention_heads": 12} | read_object(file)  # if the file lacks them
        sizes["heads"] = (told["num_attention_heads"], qformer.layers[0].attention.heads)
        sizes["model_type"] = (told["model_type"], "bert")
    if differing := [
        f"{name} {theirs}, the Q-Former's is {ours}" for name, (theirs, ours) in sizes.items() if theirs != ours
    ]:
        raise ValueError(f"BERT in {folder} has {'; '.join(differing)}: give the Q-Former BERT's sizes")


def _copy_layer(layer: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    attention = prefix + "attention.self."
    for kind in ("weight", "bias"):
        parts = [state[f"{attention}{name}.{kind}"] for name in ("query", "key", "value")]
        getattr(layer.attention.qkv, kind).copy_(torch.cat(parts))
    _copy(layer.attention.output, state, prefix + "attention.output.dense")
    _copy(layer.attention.norm, state, prefix + "attention.output.LayerNorm")
    for feed_forward in (layer.query_mlp, layer.text_mlp):
        if feed_forward is not None:
            _copy(feed_forward.expand, state, prefix + "intermediate.dense")
            _copy(feed_forward.output, state, prefix + "output.dense")
            _copy(feed_forward.norm, state, prefix + "output.LayerNorm")


def _copy(module: nn.Module, state: dict[str, Tensor], name: str) -> None:
    module.weight.copy_(state[f"{name}.weight"])
    module.bias.copy_(state[f"{name}.bias"])
