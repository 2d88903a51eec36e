"""`params --memory`: the memory that a training step needs on each GPU, found without a GPU.

Weights, gradients and AdamW's state are counted. What a forward keeps for its backward is measured: the network's own
code runs in the experiment's shapes and dtypes on fake tensors, which have no memory and no values. What a backward
computes again (checkpointing) is not included.

Legend: B rows, R selected rows, U uniform numbers, N image tokens, W image width.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_blip2.model.lora import add_lora
from lit_blip2.model.pretrained import build
from lit_blip2.model.text import PackedText
from lit_blip2.model.timm_network import build as build_vision
from lit_blip2.network import count
from lit_blip2.objectives.joint import Joint

STRATEGIES = ("ddp", "deepspeed_stage_1", "deepspeed_stage_2", "fsdp")


class Need(NamedTuple):
    """Bytes on each rank of a part: its weights, their gradients, AdamW's state, and what a forward keeps."""

    weights: float
    gradients: float
    optimiser: float
    kept: float

    @property
    def total(self) -> float:
        return sum(self)


class Held(TorchDispatchMode):
    """Counts the bytes of tensors that operations have made and that are still alive.

    part: the part that new tensors count for, set by the caller. now: part -> bytes. most: the largest total so far.
    """

    def __init__(self, part: str = "") -> None:
        super().__init__()
        self.part, self.now, self.most = part, Counter(), 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for storage in _storages(made) - _storages((args, kwargs)):  # what is in both is a view, or changed in place
            self._change(self.part, storage.nbytes())
            weakref.finalize(storage, self._change, self.part, -storage.nbytes())
        return made

    def _change(self, part: str, size: int) -> None:
        self.now[part] += size
        self.most = max(self.most, self.now.total())


def _storages(values: Any) -> set[torch.UntypedStorage]:
    return {value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)}


def allocated(work: Callable[[], object]) -> tuple[int, int]:
    """Bytes of the new tensors of `work`, real or fake: (at its end, at most).

    At the end, what `work` returns is still alive: for a forward, with all that its backward needs. The numbers are
    exact and repeatable, but leave out the temporary memory of a single operation.
    """
    with Held() as held:
        result = work()
    found = held.now.total(), held.most
    del result
    return found


def plan(
    net: nn.Module, image_size: int, rows: int, words: int, devices: int, strategy: str, bf16: bool
) -> dict[str, Need]:
    """The memory that each part, and what a step keeps, needs on each rank.

    Args:
        net: from `sketch`; it is used up. image_size: pixels. rows: a rank's micro-batch. words: tokens of a caption.
        devices: GPUs. strategy: one of STRATEGIES. bf16: the step runs in mixed 16 bits.
    Raises:
        ValueError: an unknown strategy, or a count below 1.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    if min(rows, words, devices) < 1:
        raise ValueError(f"{rows} rows, {words} tokens and {devices} devices: each must be at least 1")
    needs, (_, stage2) = {}, stages(net)
    for name, trainable, frozen in count(net):
        loaded = {"vision": net.vision, "language": getattr(stage2, "language", None)}.get(name)
        size = 4 if loaded is None else loaded.dtype.itemsize
        if name == "language" and loaded.bits:  # nearly all of it are linear layers, of these bits
            size = loaded.bits / 8
        needs[name] = share(trainable, frozen * size, devices, strategy)
    for name, size in kept_by_step(net, image_size, rows, words, bf16).items():
        needs[f"kept: {name}"] = Need(0, 0, 0, size)
    if size := gathered(net, image_size, rows, devices):
        needs["gathered for a moment"] = Need(0, 0, 0, size)
    return needs


def gathered(net: nn.Module, image_size: int, rows: int, devices: int) -> int:
    """Bytes of the global batch's image features, which each rank gathers for ITM: in parts, and joined."""
    if devices == 1 or getattr(stages(net)[0], "itm", None) is None:
        return 0
    tokens, width = net.vision.output_shape(image_size)
    return 2 * devices * rows * tokens * width * net.vision.dtype.itemsize


def share(trainable: int, frozen_bytes: float, devices: int, strategy: str) -> Need:
    """A rank's memory for a part with `trainable` parameters, kept in float32, and with `frozen_bytes`."""
    weights = devices if strategy == "fsdp" else 1
    gradients = devices if strategy in ("fsdp", "deepspeed_stage_2") else 1
    state = 1 if strategy == "ddp" else devices
    buckets = 4 * trainable if strategy == "ddp" and devices > 1 else 0  # DDP's own copy of the gradients
    return Need((4 * trainable + frozen_bytes) / weights, 4 * trainable / gradients + buckets, 8 * trainable / state, 0)


def stages(net: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """The part with ITC, ITM and ITG, and the one with a language model; None where there is none."""
    if isinstance(net, Joint):
        return net.stage1, net.stage2
    return (None, net) if hasattr(net, "language") else (net, None)


def kept_by_step(net: nn.Module, image_size: int, rows: int, words: int, bf16: bool) -> dict[str, int]:
    """Bytes that a forward of `rows` rows keeps for its backward: in the encoder, in the language model's blocks, and
    in all else. A frozen encoder keeps only its output: the rest is freed before the other parts run."""
    build_loaded(net)
    given, features = batch(net, rows, words), (rows, *net.vision.output_shape(image_size))
    held = Held("vision")
    for block in blocks(getattr(stages(net)[1], "language", nn.Module())):
        block.register_forward_pre_hook(lambda *_: setattr(held, "part", "language"))
        block.register_forward_hook(lambda *_: setattr(held, "part", "all else"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in net.modules():
            module.to_empty(device="cpu", recurse=False)
        with held, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            if net.vision.frozen:
                features_BND = torch.empty(features, dtype=net.vision.dtype)
            else:
                features_BND = net.vision(torch.empty(rows, 3, image_size, image_size))
            held.part = "all else"
            losses = net(features_BND, **given)
    kept = {part: held.now[part] for part in ("vision", "language", "all else") if held.now[part]}
    del losses  # alive until here, and all that its backward needs with it
    return kept


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a language model: the modules in its ModuleLists, but not in lists inside a block."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else blocks(child)


def build_loaded(net: nn.Module) -> None:
    """Build on the meta device what `load` would read and a step runs through, except a frozen encoder."""
    vision, (_, stage2) = net.vision, stages(net)
    if not vision.frozen:
        vision.encoder = build_vision(vision.name, vision.model_args, vision.drop_last_blocks, "meta")
        vision.encoder.set_grad_checkpointing(vision.checkpointing)
    if stage2 is not None:
        language = stage2.language
        language.model = build(language.config).to(language.dtype).requires_grad_(not language.frozen)
        if language.lora is not None:
            add_lora(language.model, language.lora)
        language.train()


class OnDevice(PackedText):
    """Texts whose selections stay padded, as on a GPU: packing them again would need their values."""

    def select(self, rows_R: Tensor) -> PackedText:
        """As PackedText."""
        return self.from_padded(self.ids_L[self.source_BT[rows_R]], self.lengths_B[rows_R])


def batch(net: nn.Module, rows: int, words: int) -> dict[str, Any]:
    """The network's inputs besides image features. words: tokens of each caption."""
    text, (stage1, stage2) = OnDevice.from_lists([[1] * words] * rows), stages(net)
    target = None if stage2 is None else stage2.language.join([[1]] * rows, [[1] * words] * rows)
    if net is stage2:
        return {"text": target, "prompts": text if stage2.reads_prompts else None}
    given = {"text": text, "image_ids_B": torch.arange(rows)} | ({"target": target} if isinstance(net, Joint) else {})
    if stage1 is not None:
        stage1.tokenizer = SimpleNamespace(dec=1)
        given["uniform_BU"] = torch.full((rows, stage1.draws), 0.5)
    return given
