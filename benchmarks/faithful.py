"""What each departure from LAVIS (docs/faithful.md) changes, on small networks without a run or a download.

    python benchmarks/faithful.py

Losses in nats. Prints one line of JSON. The language models are the mini-world's, which have read its captions, behind
random soft prompts; the rest is random: read which effects are large, not how large they are in a true run.
"""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.activations import ACT2FN

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from lit_blip2.lit.optim import AdamWCosine
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.pretrained import set_activation
from lit_blip2.objectives.itc import ITC
from lit_blip2.objectives.lm import LM

OPT = Path(__file__).resolve().parents[1] / "lit_blip2/mini/weights/opt"
CAPTIONS = ["a small red circle at top left", "a blue square", "a large green triangle at bottom right"]
LONG = " ".join([*CAPTIONS, *CAPTIONS])


def main() -> None:
    torch.manual_seed(0)
    found = {}
    for part in (begin_token, cut, gathered, means, dropout, activation, staircase):
        found |= part()
    print(json.dumps({name: round(value, 5) for name, value in found.items()}))


def loss_of(language: LanguageModel, objective: LM, captions: list[str]) -> float:
    """After random soft prompts of the same seed."""
    prefix_BPD = 0.02 * torch.randn(len(captions), 8, language.width, generator=torch.Generator().manual_seed(1))
    text = objective.text(language, captions, [""] * len(captions), torch.zeros(len(captions)))
    with torch.no_grad():
        return objective(language.loss(prefix_BPD, text)[0])["loss"].item()


def opt(**arguments) -> LanguageModel:
    """The mini-world's OPT."""
    language = LanguageModel(str(OPT), dtype="float32", **arguments)
    language.load()
    return language


def begin_token() -> dict[str, float]:
    """Mean loss where the begin token is read, and where it is learnt."""
    language = opt()
    return {
        "begin_read": loss_of(language, LM(), CAPTIONS),
        "begin_learnt": loss_of(language, LM(learn_begin=True), CAPTIONS),
    }


def cut() -> dict[str, float]:
    """Mean loss of captions longer than 32 tokens, cut with their end mark and without it."""
    words = opt(max_target_tokens=31)
    return {
        "cut_with_end": loss_of(words, LM(), [LONG]),
        "cut_without_end": loss_of(words, LM(max_text_tokens=32), [LONG]),
    }


def gathered() -> dict[str, float]:
    """How far ITC's gradient is off without that of gathered features, of its whole norm; batch 64, 32 queries."""
    query_BQD, text_BD = torch.randn(64, 32, 96), torch.randn(64, 96)
    whole, cut_off = ITC(96), ITC(96, gather_with_grad=False)
    cut_off.load_state_dict(whole.state_dict())
    ours, theirs = (_gradient(itc, itc(query_BQD, text_BD, torch.arange(64))["loss"]) for itc in (whole, cut_off))
    return {"gathered_gradient_off": ((ours - theirs).norm() / ours.norm()).item()}


def _gradient(module: torch.nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(module.parameters()))])


def means() -> dict[str, float]:
    """How far a gradient is off, of its norm, where 8 ranks of 8 texts of 9 to 19 tokens each take their own mean."""
    weight_VD = torch.randn(64, 32, requires_grad=True)
    sums, counts = [], []
    for _ in range(8):
        length = int(torch.randint(9, 20, (8,)).sum())
        logits_LV = torch.randn(length, 32) @ weight_VD.T
        sums.append(F.cross_entropy(logits_LV, torch.randint(64, (length,)), reduction="sum"))
        counts.append(length)
    all_tokens = sum(sums) / sum(counts)
    of_ranks = sum(total / count for total, count in zip(sums, counts)) / len(sums)
    ours, theirs = (torch.autograd.grad(loss, weight_VD, retain_graph=True)[0] for loss in (all_tokens, of_ranks))
    return {"means_gradient_off": ((ours - theirs).norm() / ours.norm()).item()}


def dropout() -> dict[str, float]:
    """Mean loss of a frozen OPT in eval mode, and with a dropout of .1 over 20 draws."""
    language = opt(frozen_dropout=True)
    for part in language.model.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.1
    still = loss_of(language.eval(), LM(), CAPTIONS)
    drawn = [loss_of(language.train(), LM(), CAPTIONS) for _ in range(20)]
    return {"dropout_none": still, "dropout_tenth": sum(drawn) / len(drawn)}


def activation() -> dict[str, float]:
    """The two gelus' greatest difference in [-8, 8], and that of a random T5's logits, of their standard deviation."""
    x = torch.linspace(-8, 8, 100_001)
    sizes = dict(vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=4, decoder_start_token_id=0)
    model = T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj="gated-gelu")).eval()
    ids = torch.randint(64, (8, 16))
    with torch.no_grad():
        published = model(input_ids=ids, decoder_input_ids=ids).logits
        set_activation(model, "gelu")
        other = model(input_ids=ids, decoder_input_ids=ids).logits
    return {
        "gelu_off": (ACT2FN["gelu"](x) - ACT2FN["gelu_new"](x)).abs().max().item(),
        "gelu_logits_off": ((published - other).abs().max() / published.std()).item(),
    }


def staircase() -> dict[str, float]:
    """Greatest and mean distance of the two courses, as a share of the peak rate: 80,000 steps in ten epochs."""
    course = dict(lr=1e-4, min_lr=5e-5, warmup_steps=2000)
    ours, theirs = AdamWCosine(**course), AdamWCosine(**course, hold_steps=8000)
    apart = [abs(ours.share(step, 80_000) - theirs.share(step, 80_000)) for step in range(80_000)]
    return {"staircase_greatest": max(apart), "staircase_mean": sum(apart) / len(apart)}


if __name__ == "__main__":
    main()
