"""The same weights under other names: here, in LAVIS' files, in Hugging Face's classes of BLIP-2 and of InstructBLIP.

A rule says which weights of the other side, one below the other, are one of ours: attention's queries, keys and values
lie in one matrix here. `{}` stands for a layer's number. Where a side keeps no such weight its column is empty.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Side = Literal["lavis", "hf", "instructblip"]
UNREAD = "dropped: nobody reads what the last layer makes of a text"
LAYER = "qformer.layers.{}."
LAVIS_LAYER, HF_LAYER = "Qformer.bert.encoder.layer.{}.", "qformer.encoder.layer.{}."
PROJECTIONS = {"opt": "opt_proj", "t5": "t5_proj", "llm": "llm_proj"}


class Rule(NamedTuple):
    """ours: a module (its weight and bias) or a parameter. lavis, hf: those that lie in it, in their order.
    instructblip: the same of InstructBLIP's class, where its names are not those of BLIP-2's."""

    ours: str
    lavis: tuple[str, ...]
    hf: tuple[str, ...]
    instructblip: tuple[str, ...] = ()


def _both(ours: str, *theirs: str, hf_self: str = "attention") -> Rule:
    """A rule of one layer, whose names differ in `self`, which Hugging Face calls `attention`."""
    return Rule(
        LAYER + ours,
        tuple(LAVIS_LAYER + name for name in theirs),
        tuple(HF_LAYER + name.replace(".self.", f".{hf_self}.") for name in theirs),
    )


SELF = [f"attention.self.{name}" for name in ("query", "key", "value")]
CROSS = [f"crossattention.self.{name}" for name in ("query", "key", "value")]
IN_LAYERS = [
    _both("attention.qkv", *SELF),
    _both("attention.output", "attention.output.dense"),
    _both("attention.norm", "attention.output.LayerNorm"),
    _both("cross.query", CROSS[0]),
    _both("cross.kv", *CROSS[1:]),
    _both("cross.output", "crossattention.output.dense"),
    _both("cross.norm", "crossattention.output.LayerNorm"),
    _both("query_mlp.expand", "intermediate_query.dense"),
    _both("query_mlp.output", "output_query.dense"),
    _both("query_mlp.norm", "output_query.LayerNorm"),
    _both("text_mlp.expand", "intermediate.dense"),
    _both("text_mlp.output", "output.dense"),
    _both("text_mlp.norm", "output.LayerNorm"),
]
WORDS = ("Qformer.bert.embeddings", "embeddings", "qformer.embeddings")
QFORMER = [
    Rule("qformer.query_tokens", ("query_tokens",), ("query_tokens",)),
    Rule("qformer.ln_vision", ("ln_vision",), ("vision_model.post_layernorm",)),
    Rule(
        "qformer.embedding_norm",
        ("Qformer.bert.embeddings.LayerNorm",),
        ("qformer.layernorm",),
        ("qformer.embeddings.layernorm",),
    ),
    *(
        Rule(f"qformer.{name}", *((f"{place}.{name}",) for place in WORDS))
        for name in ("word_embeddings.weight", "position_embeddings.weight")
    ),
]
OBJECTIVES = [
    Rule("itc.temperature", ("temp",), ()),
    Rule("itc.image_projection", ("vision_proj",), ("vision_projection",)),
    Rule("itc.text_projection", ("text_proj",), ("text_projection",)),
    Rule("itm.head", ("itm_head",), ("itm_head",)),
    Rule("itg.transform", ("Qformer.cls.predictions.transform.dense",), ()),
    Rule("itg.norm", ("Qformer.cls.predictions.transform.LayerNorm",), ()),
    Rule("itg.bias", ("Qformer.cls.predictions.bias",), ()),
]


def rules(layers: int, family: Literal["opt", "t5", "llm"] | None = None) -> list[Rule]:
    """Those of stage 1, or of stage 2 with a language model of a family (to Hugging Face all are the same); layers: of
    the Q-Former."""
    of_layers = [
        Rule(*(rule.ours.format(i),), *(tuple(name.format(i) for name in side) for side in rule[1:]))
        for i in range(layers)
        for rule in IN_LAYERS
    ]
    if family is None:
        return [*QFORMER, *of_layers, *OBJECTIVES]
    projection = Rule("bridge.projection", (PROJECTIONS[family],), ("language_projection",))
    return [rule._replace(ours=f"bridge.{rule.ours}") for rule in (*QFORMER, *of_layers)] + [projection]


def count_layers(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number in the pattern's group; 0 if no key has one."""
    return 1 + max((int(found[1]) for key in keys if (found := re.search(pattern, key))), default=-1)


def family_of(net: nn.Module) -> str:
    """Which of PROJECTIONS a network of stage 2 has in LAVIS, whose InstructBLIP calls every decoder `llm`."""
    kind = net.language.config["model_type"]
    return "t5" if kind == "t5" else "opt" if kind == "opt" and not net.reads_prompts else "llm"


def ours_from(
    theirs: Mapping[str, Tensor], side: Side, given: Iterable[Rule]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(our weights, of each of theirs that was used the name of ours).

    Ours of which they have no part, or only some, are not there: whether that matters the caller knows. Parts of other
    shapes than one another come as one row, which is no weight's shape: the caller's check of shapes names it.
    """
    ours: dict[str, Tensor] = {}
    used: dict[str, str] = {}
    for name, parts in _parameters(side, given):
        if all(part in theirs for part in parts):
            values = [theirs[part] for part in parts]
            if whole := [part for part, each in zip(parts, values) if not each.is_floating_point()]:
                raise ValueError(
                    f"{whole[0]} holds {values[parts.index(whole[0])].dtype}, where floating-point weights are wanted"
                )
            value = values[0] if len(values) == 1 else _stacked(values)
            if _is_queries(name):
                value = value[0] if value.ndim == 3 and len(value) == 1 else value[None]
            ours[name] = value
        used |= {part: name for part in parts if part in theirs}
    return ours, used


def without_unread(
    ours: Mapping[str, Tensor], used: Mapping[str, str], layers: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `ours_from` found without what a bridge that reads prompts lacks: its last layer's text feed-forward."""
    idle = {name for name in ours if name.startswith(f"bridge.{LAYER.format(layers - 1)}text_mlp.")}
    kept = {name: value for name, value in ours.items() if name not in idle}
    return kept, {key: UNREAD if name in idle else name for key, name in used.items()}


def with_unread(ours: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights of a bridge that reads prompts, with zeros for the feed-forward that it lacks and others have."""
    first, last = (f"bridge.{LAYER.format(layer)}text_mlp." for layer in (0, layers - 1))
    return ours | {name.replace(first, last): torch.zeros_like(ours[name]) for name in ours if name.startswith(first)}


def check_positions(state: Mapping[str, Tensor], key: str, path: Path) -> dict[str, str]:
    """What became of BERT's buffer of positions, where a file has it. Raises ValueError for others than 0, 1, 2, ..."""
    if key not in state:
        return {}
    if state[key].flatten().tolist() != list(range(state[key].numel())):
        raise ValueError(f"{path}: {key} are not 0, 1, 2, ...: the Q-Former here has no others")
    return {key: "derived: 0, 1, 2, ..."}


def theirs_from(ours: Mapping[str, Tensor], side: Side, given: Iterable[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """(their weights, those of ours that have no place there)."""
    theirs: dict[str, Tensor] = {}
    homeless = set(ours)
    for name, parts in _parameters(side, given):
        if name in ours:
            value = ours[name].unsqueeze(0) if _is_queries(name) else ours[name]
            theirs |= dict(zip(parts, value.chunk(len(parts)) if len(parts) > 1 else [value], strict=True))
            homeless.remove(name)
    return theirs, sorted(homeless)


def _stacked(values: list[Tensor]) -> Tensor:
    """One below the other; of shapes that are not the same, or none, a row of all numbers."""
    same = len({value.shape for value in values}) == 1 and values[0].ndim > 0
    return torch.cat(values) if same else torch.cat([value.flatten() for value in values])[None]


def _is_queries(name: str) -> bool:
    """Theirs has the query tokens as a batch of one, [1, Q, D]."""
    return name.endswith("query_tokens")


def _parameters(side: Side, given: Iterable[Rule]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(ours, theirs) of each parameter that a side has: of a module its weight and its bias."""
    for rule in given:
        theirs = getattr(rule, side) or (rule.hf if side == "instructblip" else ())
        if not theirs:
            continue
        single = rule.ours.rsplit(".", 1)[-1] in ("query_tokens", "weight", "bias", "temperature")
        for ending in ("",) if single else (".weight", ".bias"):
            yield rule.ours + ending, tuple(name + ending for name in theirs)
