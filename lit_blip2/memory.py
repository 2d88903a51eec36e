"""`params --memory`: what a training step needs of each GPU, before there is one.

Weights, gradients and AdamW's state are counted. What a forward leaves for its backward is measured: the network's own
code runs on the CPU in the experiment's shapes and types, with weights of zero; encoder and language model with one
block and with two, from which the others follow. What a backward computes again (checkpointing) is not in it.

Legend: B rows, N image tokens, W image width.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_blip2.model.language import LanguageModel
from lit_blip2.model.lora import add_lora
from lit_blip2.model.pretrained import build
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder, used_blocks
from lit_blip2.model.vision import build as build_vision
from lit_blip2.network import count
from lit_blip2.objectives.joint import Joint

MEASURED = (2, 4)  # rows of two measured batches: what is kept is a line through them
STRATEGIES = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "fsdp")
DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer")


class Need(NamedTuple):
    """Bytes on each rank of a part: its weights, their gradients, AdamW's state, and what a forward keeps."""

    weights: float
    gradients: float
    optimiser: float
    kept: float

    @property
    def total(self) -> float:
        return sum(self)


def allocated(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes that `work` takes from torch's CPU allocator: (held at its end, held at most).

    At the end, what `work` returns is alive: for a forward, that is what it leaves for its backward. Follows each
    address in the profiler's record of allocations and releases, so it is exact, repeatable, and blind to what the C
    library keeps back. Releases of what was there before do not count, and buffers inside MKL do not either.
    """
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile
    from torch.profiler._utils import traverse_dfs

    with silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = work()
    events = traverse_dfs(recorded.profiler.kineto_results.experimental_event_tree())
    live, held, peak = {}, 0, 0
    for event in sorted(events, key=lambda each: each.start_time_ns):
        if event.tag != _EventType.Allocation:
            continue
        address, size = event.extra_fields.ptr, event.extra_fields.alloc_size
        if size > 0:
            live[address] = size
            held += size
            peak = max(peak, held)
        else:  # of an older tensor, the profiler tells the size of what it last saw at that address
            held -= live.pop(address, 0)
    del result
    return held, peak


@contextmanager
def silent_stderr() -> Iterator[None]:
    """The profiler's library writes to the process' standard error whatever it is told."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def plan(
    net: nn.Module, image_size: int, rows: int, words: int, devices: int, strategy: str, bf16: bool
) -> dict[str, Need]:
    """What each part, and what each step keeps, needs on each rank.

    Args:
        net: from `sketch`; used up. image_size: pixels. rows: a rank's micro-batch. words: tokens of a caption.
        devices: GPUs. strategy: one of STRATEGIES. bf16: the step runs in mixed 16 bits.
    Raises:
        ValueError: a strategy or a count that cannot be.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    if min(rows, words, devices) < 1:
        raise ValueError(f"{rows} rows, {words} tokens and {devices} devices: each must be at least 1")
    stage2 = stage2_of(net)
    needs = {}
    for name, trainable, frozen in count(net):
        loaded = {"vision": net.vision, "language": getattr(stage2, "language", None)}.get(name)
        size = 4 if loaded is None else loaded.dtype.itemsize
        if name == "language" and loaded.bits:  # of its linear layers, which are nearly all of it
            size = loaded.bits / 8
        needs[name] = share(trainable, frozen * size, devices, strategy)
    few, more = (kept_by_step(net, image_size, words, measured, bf16) for measured in MEASURED)
    for name in few:
        slope = (more[name] - few[name]) / (MEASURED[1] - MEASURED[0])
        needs[f"kept: {name}"] = Need(0, 0, 0, few[name] + slope * (rows - MEASURED[0]))
    if size := gathered(net, image_size, rows, devices):
        needs["gathered for a moment"] = Need(0, 0, 0, size)
    return needs


def gathered(net: nn.Module, image_size: int, rows: int, devices: int) -> int:
    """Bytes of the global batch's image features, from which ITM draws on every rank: one by one, and joined."""
    stage1, vision = net.stage1 if isinstance(net, Joint) else net, net.vision
    if devices == 1 or getattr(stage1, "itm", None) is None:
        return 0
    tokens, width = vision.output_shape(image_size)
    return 2 * devices * rows * tokens * width * vision.dtype.itemsize


def share(trainable: int, frozen_bytes: float, devices: int, strategy: str) -> Need:
    """A rank's share of a part of so many trainable parameters, kept in float32, and of frozen bytes."""
    weights = devices if strategy == "fsdp" else 1
    gradients = devices if strategy in ("fsdp", "deepspeed_stage_2") else 1
    state = 1 if strategy == "ddp" else devices
    buckets = 4 * trainable if strategy == "ddp" and devices > 1 else 0  # DDP's own copy of the gradients
    return Need((4 * trainable + frozen_bytes) / weights, 4 * trainable / gradients + buckets, 8 * trainable / state, 0)


def kept_by_step(net: nn.Module, image_size: int, words: int, rows: int, bf16: bool) -> dict[str, float]:
    """Bytes that the forward of so many rows leaves for its backward: in the encoder, in the language model's blocks,
    and in all else. Of a frozen encoder that is its output; what passes through it is gone before the rest is there."""
    vision, kept = net.vision, {}
    stage2 = stage2_of(net)
    depth = used_blocks(vision.name, vision.model_args, vision.drop_last_blocks)
    sizes = []
    for blocks in (1, 2):
        vision.encoder = empty(build_vision(vision.name, vision.model_args | {"depth": blocks}, 0, "meta"), vision)
        vision.encoder.set_grad_checkpointing(vision.checkpointing)
        sizes.append(allocated(lambda: see(vision, image_size, rows, bf16))[0])
    features_BND = see(vision, image_size, rows, bf16).detach()
    kept["vision"] = sizes[0] + (depth - 1) * (sizes[1] - sizes[0])
    for name, part in net.named_children():
        if name not in ("vision", "language"):
            blank(part)
    if stage2 is None:
        return kept | {"all else": allocated(lambda: step(net, None, features_BND, words, bf16))[0]}
    language, config = stage2.language, stage2.language.config
    ones = {key: 1 for key in DEPTHS if key in config}
    measured = {}
    for more in (None, *ones):  # an encoder-decoder has two depths
        language.model = empty(build(with_depths(config, ones | ({more: 2} if more else {}))), language)
        if language.lora is not None:
            add_lora(language.model, language.lora)
        measured[more] = allocated(lambda: step(net, stage2, features_BND, words, bf16))[0]
    blocks = {key: measured[key] - measured[None] for key in ones}
    kept["language"] = sum(size * config[key] for key, size in blocks.items())
    return kept | {"all else": measured[None] - sum(blocks.values())}


def with_depths(config: dict[str, Any], depths: dict[str, int]) -> dict[str, Any]:
    """A language model's configuration with other depths, and as much of what it says block by block."""
    changed = config | depths
    if config.get("layer_types"):
        changed["layer_types"] = config["layer_types"][: depths["num_hidden_layers"]]
    if "attention_layers" in config:  # GPT-Neo's, and how often they come
        changed["attention_layers"] = config["attention_layers"][: depths["num_layers"]]
        changed["attention_types"] = [[[each], 1] for each in changed["attention_layers"]]
    return changed


def stage2_of(net: nn.Module) -> nn.Module | None:
    """The part with a language model, if there is one."""
    if isinstance(net, Joint):
        return net.stage2
    return net if hasattr(net, "language") else None


def see(vision: VisionEncoder, image_size: int, rows: int, bf16: bool) -> Tensor:
    """The features of a batch of images, [B, N, W]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return vision(torch.zeros(rows, 3, image_size, image_size))


def step(net: nn.Module, stage2: nn.Module | None, features_BND: Tensor, words: int, bf16: bool) -> dict[str, Tensor]:
    """The losses of a batch with captions of so many tokens."""
    rows = len(features_BND)
    text = PackedText.from_lists([[1] * words] * rows)
    target = None if stage2 is None else stage2.language.join([[1]] * rows, [[1] * words] * rows)
    if net is stage2:
        given = {"text": target, "prompts": text if stage2.reads_prompts else None}
    else:
        given = {"text": text, "image_ids_B": torch.arange(rows)} | (
            {"target": target} if isinstance(net, Joint) else {}
        )
        if (stage1 := net.stage1 if isinstance(net, Joint) else net) is not None:
            stage1.tokenizer = SimpleNamespace(dec=1)
            given["uniform_BU"] = torch.full((rows, stage1.draws), 0.5)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return net(features_BND, **given)


def empty(network: nn.Module, part: VisionEncoder | LanguageModel) -> nn.Module:
    """A network on the CPU with weights of zero, in the part's type, frozen as it is."""
    return blank(network.to(part.dtype)).requires_grad_(not part.frozen).train(not part.frozen)


@torch.no_grad()
def blank(network: nn.Module) -> nn.Module:
    """A network from the meta device to the CPU; all weights and buffers are zero."""
    network.to_empty(device="cpu")
    for value in (*network.parameters(), *network.buffers()):
        value.zero_()
    return network
