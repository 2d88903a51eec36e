"""How much faster, and in how much memory, does ITM re-rank 128 texts of an image than the plain way?

Ours is `match_pairs` of lit/evaluators/retrieval.py, which evaluation calls: an image is projected to keys and values
once, its texts look at these without a copy, and linear layers see real tokens alone. Plain is how the original does
it: the image's features are repeated for each text, every pair projects its copy in each cross-attention layer, and
texts are padded to 35 tokens (also timed: to 19, the longest of these). Same weights; equal logits and the same order
of the candidates are checked before anything is timed.

    OMP_NUM_THREADS=2 python benchmarks/retrieval.py --image-tokens 257     # true size: minutes on two idle cores
    OMP_NUM_THREADS=2 python benchmarks/retrieval.py --image-tokens 677     # 364 px
    python benchmarks/retrieval.py --quick                                  # tiny size, seconds: does it all run?

Memory is that of all tensors, at most, while one image is re-ranked, weights not counted.

The last line is JSON: speedup (padded to 35), speedup_to_longest, memory_peak (ours over plain), and what they rest on.

Legend: B images, N image tokens, W image width, R pairs, T padded text positions, S positions of a sequence.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from benchmarks.measure import gflop, interleave, ratio
from benchmarks.plain import PlainStage1, additive
from benchmarks.stage1_step import QUICK, Size, build, make_batch
from lit_blip2.allocator import keep_freed_memory
from lit_blip2.lit.evaluators.retrieval import match_pairs
from lit_blip2.memory import allocated
from lit_blip2.model.text import PackedText

PADDED = 35  # tokens; LAVIS' texts when it re-ranks
MAX_DIFFERENCE = 1e-4


@torch.no_grad()
def plain_match(net: PlainStage1, features_NW: Tensor, text: PackedText, length: int) -> Tensor:
    """ITM's logit of "match" for an image and each of R texts, padded to `length`: [R]."""
    texts = len(text)
    image_RNW = net.qformer.ln_vision(features_NW).repeat(texts, 1, 1)
    ids_RT, valid_RT = text.padded(length), F.pad(text.valid_BT, (0, length - text.max_length))
    seen_RS = F.pad(valid_RT, (net.qformer.num_queries, 0), value=True)
    hidden_RSD, _ = net.qformer(image_RNW, ids_RT, additive(seen_RS[:, None, None]))
    return net.itm.head(hidden_RSD[:, : net.qformer.num_queries]).mean(dim=1)[:, 1]


def sides(size: Size, texts: int) -> dict[str, Callable[[], Tensor]]:
    """What re-ranks one image: each gives the logits of its texts, [R]."""
    net = build(size).eval()
    plain = PlainStage1(net).eval()
    features_NW = make_batch(replace(size, batch=1), "coco").features_BNW[0]
    text = make_batch(replace(size, batch=texts, image_tokens=1), "coco").text
    pairs_R2 = torch.stack([torch.zeros(texts, dtype=torch.long), torch.arange(texts)], dim=1)
    return {
        "ours": partial(match_pairs, net, [features_NW], text, pairs_R2, bar=False),
        "plain": partial(plain_match, plain, features_NW, text, PADDED),
        "longest": partial(plain_match, plain, features_NW, text, text.max_length),
    }


def check(ours_R: Tensor, plain_R: Tensor) -> float:
    """Greatest difference of a logit. Raises ValueError where it is too great or the order is another."""
    gap = (ours_R - plain_R).abs().max().item()
    if gap > MAX_DIFFERENCE or not torch.equal(ours_R.argsort(), plain_R.argsort()):
        raise ValueError(f"the sides differ by {gap:.1e} (limit {MAX_DIFFERENCE}), or rank the candidates differently")
    return gap


def look(side: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """What a side gives, GFLOP of its matrix products, and the MB it holds at most."""
    found, work = [], []
    _, peak = allocated(lambda: work.append(gflop(lambda: found.append(side()))))
    return found[0], work[0], peak / 1e6


def compare(size: Size, texts: int, repetitions: int) -> dict[str, float]:
    """Equality, matrix work, memory and times of the sides."""
    work = sides(size, texts)
    seen = {name: look(side) for name, side in work.items()}
    gap = max(check(seen["ours"][0], seen[name][0]) for name in ("plain", "longest"))
    figures = {"logit_difference": gap, "logit_deviation": seen["plain"][0].std().item()}
    seconds = interleave(work, repetitions, warm_up=0)  # the look at each side was one turn
    for slow, name in (("plain", "speedup"), ("longest", "speedup_to_longest")):
        figures[name], least, most = ratio(seconds[slow], seconds["ours"])
        print(f"{name}: {figures[name]:.2f} ({least:.2f} to {most:.2f}, n = {repetitions})")
    figures["memory_peak"] = seen["ours"][2] / seen["plain"][2]
    for name, (_, operations, peak) in seen.items():
        figures |= {f"gflop_{name}": operations / texts, f"mb_peak_{name}": peak}
    return figures | {"pairs_per_second": texts / min(seconds["ours"])}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a smoke test, no result")
    parser.add_argument("--image-tokens", type=int, default=257, help="257 at 224 px with ViT-g, 677 at 364 px")
    parser.add_argument("--texts", type=int, default=128, help="candidates of the image")
    parser.add_argument("--repetitions", type=int, default=3, help="counted turns")
    chosen = parser.parse_args(arguments)
    keep_freed_memory()  # as the command line does
    size = QUICK if chosen.quick else Size(image_tokens=chosen.image_tokens)
    size = replace(size, max_text=max(size.max_text, PADDED))
    figures = compare(size, chosen.texts, chosen.repetitions)
    rest = {"texts": chosen.texts, "repetitions": chosen.repetitions, "threads": torch.get_num_threads()}
    print(json.dumps(figures | rest | {"torch": torch.__version__} | asdict(size)))


if __name__ == "__main__":
    main()
