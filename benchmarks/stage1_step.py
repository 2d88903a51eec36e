"""How much faster, and in how much less memory, does a stage-1 training step run than its plain formulation?

A step is forward, backward and AdamW of ITC, ITM and ITG together, image features given. `plain.py` is the other side:
the same weights, the same negatives, losses and gradients equal (checked before anything is timed), another order of
work. Sides take turns in one run and only ratios are reported. Then each saving is taken away in turn (`savings.py`).

    OMP_NUM_THREADS=2 python benchmarks/stage1_step.py            # true size: 15 to 20 minutes on two cores
    python benchmarks/stage1_step.py --quick                      # tiny size, seconds: does it all run?

Memory is that of all tensors, followed from operation to operation, each side in a process of its own:
    memory        at the end of the forward, above weights, gradients and optimiser state
    memory_peak   at most in the whole step, above weights and optimiser state, gradients included

The last line is JSON: speedup (texts of 9 to 19 tokens, as COCO's), speedup_full_text (32 tokens), memory and
memory_peak (ours over plain), and what they rest on. Times need idle cores: the two sides do not suffer alike.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from benchmarks import savings
from benchmarks.measure import gflop, interleave, ratio
from benchmarks.plain import PlainStage1, from_plain
from lit_blip2.memory import allocated
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.vision import VisionEncoder
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.itg import ITG
from lit_blip2.objectives.itm import ITM
from lit_blip2.objectives.stage1 import Stage1

CLS, SEP = 101, 102
LOSSES = ("itc", "itm", "itg", "total")
MAX_LOSS_DIFFERENCE, MAX_GRADIENT_DIFFERENCE = 1e-5, 1e-4


@dataclass(frozen=True)
class Size:
    """Sizes of a step; the defaults are the paper's, with ViT-g at 224 px."""

    batch: int = 8
    image_tokens: int = 257
    queries: int = 32
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    vocabulary: int = 30523
    max_text: int = 32


QUICK = Size(
    batch=4, image_tokens=6, queries=5, hidden=24, layers=3, heads=4, intermediate=40, vocabulary=140, max_text=20
)


class Batch(NamedTuple):
    """What Stage1.forward takes."""

    features_BNW: Tensor
    text: PackedText
    image_ids_B: Tensor
    uniform_B2: Tensor


def build(size: Size, seed: int = 0) -> Stage1:
    """A Stage1 with random weights, no dropout, and no image encoder behind it."""
    torch.manual_seed(seed)
    net = Stage1(
        vision=VisionEncoder("eva_giant_patch14_clip_224"),
        qformer=partial(
            QFormer, num_queries=size.queries, hidden=size.hidden, layers=size.layers, heads=size.heads,
            intermediate=size.intermediate, vocab_size=size.vocabulary, dropout=0.0,
        ),
        tokenizer="none", itc=ITC, itm=ITM, itg=ITG, max_text_tokens=size.max_text,
    )  # fmt: skip
    net.tokenizer = SimpleNamespace(dec=size.vocabulary - 1)
    with torch.no_grad():  # biases at 0 and norms at 1 would hide a forgotten one
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return net


def make_batch(size: Size, lengths: str, seed: int = 1) -> Batch:
    """Random features and texts; `lengths` is coco or full (the most allowed).

    coco: 9 to 19 tokens, more short than long, 12.5 on average: COCO's 10.5 words with [CLS] and [SEP].
    """
    generator = torch.Generator().manual_seed(seed)
    tokens_B = torch.full((size.batch,), size.max_text)
    if lengths == "coco":
        tokens_B = (9 + 10 * torch.linspace(0, 1, size.batch).square()).round().long()
    words = [torch.randint(SEP + 1, size.vocabulary - 1, (n - 2,), generator=generator) for n in tokens_B]
    return Batch(
        torch.randn(size.batch, size.image_tokens, 1408, generator=generator),
        PackedText.from_lists([[CLS, *each.tolist(), SEP] for each in words]),
        torch.arange(size.batch),
        torch.rand(size.batch, 2, generator=generator, dtype=torch.float64),
    )


def make_step(
    module: nn.Module, losses: Callable[..., dict[str, Tensor]], batch: Batch, fused: bool
) -> Callable[..., dict[str, Tensor]]:
    """Forward, backward and AdamW. The learning rate is 0: all the work, and every repetition starts alike."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.05, fused=fused)

    def step() -> dict[str, Tensor]:
        optimizer.zero_grad()
        result = losses(*batch)
        result["total"].backward()
        optimizer.step()
        return result

    return step


def plain_step(net: Stage1, batch: Batch):
    """The plain side's module and step."""
    plain = PlainStage1(net)
    return plain, make_step(plain, plain, batch, fused=False)


def difference(net: Stage1, plain: PlainStage1, batch: Batch) -> tuple[float, float]:
    """(greatest difference of a loss, norm of the gradients' difference over the gradient's norm)."""
    results = []
    for module in (net, plain):
        module.zero_grad()
        results.append(module(*batch))
        results[-1]["total"].backward()
    ours = {name: parameter.grad for name, parameter in net.named_parameters()}
    theirs = from_plain({name: parameter.grad for name, parameter in plain.named_parameters()}, ours)
    gap = sum((ours[name] - theirs[name]).double().square().sum() for name in ours).sqrt()
    norm = sum(theirs[name].double().square().sum() for name in ours).sqrt()
    return max(abs(results[0][k] - results[1][k]).item() for k in LOSSES), (gap / norm).item()


def compare(size: Size, lengths: str, repetitions: int) -> dict[str, float]:
    """Equality, matrix work and times of the two sides. Raises ValueError where they are not equal."""
    net, batch = build(size), make_batch(size, lengths)
    plain, step_plain = plain_step(net, batch)
    loss_gap, gradient_gap = difference(net, plain, batch)
    if loss_gap > MAX_LOSS_DIFFERENCE or gradient_gap > MAX_GRADIENT_DIFFERENCE:
        raise ValueError(
            f"the sides differ: losses by {loss_gap:.1e} (limit {MAX_LOSS_DIFFERENCE}), gradients by "
            f"{gradient_gap:.1e} of their norm (limit {MAX_GRADIENT_DIFFERENCE}): a saving changes the numbers"
        )
    step_ours = make_step(net, net, batch, fused=True)
    work = {"plain": gflop(step_plain) / size.batch, "ours": gflop(step_ours) / size.batch}
    seconds = interleave({"plain": step_plain, "ours": step_ours}, repetitions)
    faster, least, most = ratio(seconds["plain"], seconds["ours"])
    print(f"{lengths} texts: {faster:.2f} times faster ({least:.2f} to {most:.2f}, n = {repetitions})")
    print(f"  matrix products, GFLOP per image: plain {work['plain']:.1f}, ours {work['ours']:.1f}")
    print(f"  losses differ by {loss_gap:.1e}, gradients by {gradient_gap:.1e} of their norm", flush=True)
    return {
        "speedup": faster,
        "gflop_plain": work["plain"],
        "gflop_ours": work["ours"],
        "loss_difference": loss_gap,
        "gradient_difference": gradient_gap,
    }


def break_down(size: Size, repetitions: int) -> dict[str, float]:
    """How many times slower a step on coco texts gets without each saving."""
    net, batch = build(size), make_batch(size, "coco")
    sides = {"all savings": make_step(net, net, batch, fused=True)}
    for name in savings.SAVINGS:
        sides[name] = make_step(net, partial(savings.losses, net, without=name), batch, fused=name != savings.FUSED)
    seconds = interleave(sides, repetitions)
    slower = {name: ratio(seconds[name], seconds["all savings"]) for name in savings.SAVINGS}
    print(f"a step on coco texts without one saving takes (n = {repetitions}):")
    for name, (median, least, most) in slower.items():
        print(f"  {median:.2f} times as long ({least:.2f} to {most:.2f}) without: {name} [{savings.SAVINGS[name]}]")
    return {name: median for name, (median, _, _) in slower.items()}


def memory_of(side: str, size: Size, lengths: str) -> dict[str, float]:
    """MB of a side: what a forward leaves for its backward, and the peak of a step after the first."""
    net, batch = build(size), make_batch(size, lengths)
    module, step = plain_step(net, batch) if side == "plain" else (net, make_step(net, net, batch, fused=True))
    step()
    module.zero_grad()
    left, _ = allocated(partial(module, *batch))
    _, peak = allocated(step)
    return {"mb": left / 1e6, "mb_peak": peak / 1e6}


def compare_memory(quick: bool, size: Size, lengths: str) -> dict[str, float]:
    """Each side's memory, measured in a process of its own."""
    command = [sys.executable, __file__, "--texts", lengths, "--batch", str(size.batch), *["--quick"] * quick]
    figures = {}
    for side in ("plain", "ours"):
        done = subprocess.run([*command, "--memory-of", side], check=True, capture_output=True, text=True)
        for name, mb in json.loads(done.stdout.splitlines()[-1]).items():
            figures[f"{name}_{side}"] = mb
    for name in ("", "_peak"):
        ours, plain = figures[f"mb{name}_ours"], figures[f"mb{name}_plain"]
        figures[f"memory{name}"] = ours / plain
        print(f"  memory{name}: {ours / plain:.2f} ({ours:.0f} of {plain:.0f} MB)", flush=True)
    return figures


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, two repetitions: a smoke test, no result")
    parser.add_argument("--batch", type=int, help="images per step (default: 8; --quick: 4)")
    parser.add_argument("--repetitions", type=int, help="counted turns (7; --quick: 2), half as many in the breakdown")
    parser.add_argument(
        "--texts", nargs="+", choices=("coco", "full"), default=("coco", "full"),
        help="coco: 9 to 19 tokens; full: 32 (default: both)",
    )  # fmt: skip
    parser.add_argument("--no-breakdown", action="store_true", help="leave out the runs without one saving")
    parser.add_argument("--no-memory", action="store_true", help="leave out the two processes that measure memory")
    parser.add_argument(
        "--memory-of", choices=("plain", "ours"), help="print one side's memory and end; the script calls itself so"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    chosen = parse(arguments)
    size = QUICK if chosen.quick else Size()
    size = replace(size, batch=chosen.batch or size.batch)
    repetitions = chosen.repetitions or (2 if chosen.quick else 7)
    if chosen.memory_of:
        print(json.dumps(memory_of(chosen.memory_of, size, chosen.texts[0])))
        return
    result: dict[str, object] = {}
    for lengths in chosen.texts:
        suffix = "" if lengths == "coco" else "_full_text"
        figures = compare(size, lengths, repetitions)
        if not chosen.no_memory:
            figures |= compare_memory(chosen.quick, size, lengths)
        result |= {name + suffix: value for name, value in figures.items()}
    if not chosen.no_breakdown:
        result["slower_without"] = break_down(size, max(2, repetitions // 2))
    result |= {"repetitions": repetitions, "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(result | asdict(size)))


if __name__ == "__main__":
    main()
