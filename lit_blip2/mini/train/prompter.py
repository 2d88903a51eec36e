"""Training the prompter that soft prompts may be tied to: captions are written again from the soft prompt that it makes
of them, by a frozen language model (P-Former, arXiv 2307.07063). No image has a part in it.

Of P-Former's three terms two are here: the caption's loss, and the distance of each vector of the soft prompt from the
nearest word. Left out is the contrast between captions, which keeps BERT's sentence embeddings apart; here the captions
must differ to be written again.

Legend: B captions, Q soft prompt positions, D language model width, L tokens of all captions, V words.
"""

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.mini.pairs import described_pair
from lit_blip2.mini.styles import STYLES, styled
from lit_blip2.mini.train.instructions import READ
from lit_blip2.mini.world import stream_rng
from lit_blip2.model.language import LanguageModel
from lit_blip2.model.prompter import Prompter, save_prompter
from lit_blip2.model.text import PackedText

STEPS, BATCH, PEAK_LR, WARMUP = 1000, 64, 2e-3, 100
STYLE = "boilerplate"  # of the captions that stage 2 is to train on
SIZE = {"num_tokens": 24, "hidden": 128, "layers": 3, "heads": 4, "longest": 64}
WORDS_WEIGHT = 1.0  # of the distance from the nearest words
CHECK_PAIRS = 100
_DRAWS = 3  # purpose number of the generator of what the style adds


def captions(seed: int, stream: str, first: int, pairs: int) -> list[str]:
    """Two captions a pair of scenes, in the style."""
    numbers = range(first, first + pairs)
    told = [(2 * k + i, each) for k in numbers for i, each in enumerate(described_pair(seed, stream, k, 1)[0])]
    return [styled(each.captions[0], STYLES[STYLE], stream_rng(seed, stream, i, _DRAWS)) for i, each in told]


def train_prompter(out: Path, seed: int, steps: int, language_folder: Path) -> dict:
    """Train for the language model in a folder, write the folder `out`; return the metrics."""
    torch.manual_seed(seed)
    language = LanguageModel(str(language_folder), dtype="float32")
    language.load()
    words_VD = language.model.get_input_embeddings().weight.detach()
    prompter = Prompter(len(words_VD), language.width, **SIZE)
    began = time.process_time()
    _fit(prompter, language, words_VD, seed, steps)
    seconds = time.process_time() - began
    save_prompter(prompter.eval(), out, language.signature)
    metrics = check(prompter, language, words_VD, seed) | {"seed": seed, "steps": steps, "seconds": round(seconds)}
    metrics["parameters"] = sum(p.numel() for p in prompter.parameters())
    (out / "figures.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics


def _fit(prompter: Prompter, language: LanguageModel, words_VD: Tensor, seed: int, steps: int) -> None:
    optimiser = torch.optim.AdamW(prompter.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LR, total_steps=steps, pct_start=min(0.3, WARMUP / steps), cycle_momentum=False
    )
    for step in range(steps):
        texts = captions(seed, "text", READ + step * BATCH // 2, BATCH // 2)
        prompt_BQD = prompter(read(language, texts))
        nats, far = written_again(language, prompt_BQD, texts), to_nearest_word(prompt_BQD, words_VD)
        optimiser.zero_grad()
        (nats + WORDS_WEIGHT * far).backward()
        nn.utils.clip_grad_norm_(prompter.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            print(f"prompter step {step + 1} nats per token {nats:.3f}, from words {far:.4f}", flush=True)


def read(language: LanguageModel, texts: list[str]) -> PackedText:
    """Texts as the prompter reads them."""
    return PackedText.from_lists(language.words_to_learn(texts, [False] * len(texts)))


def written_again(language: LanguageModel, prompt_BQD: Tensor | None, texts: list[str]) -> Tensor:
    """Mean nats per token of texts, end mark included, behind soft prompts or none."""
    losses_L, _ = language.loss(prompt_BQD, language.tokenise([""] * len(texts), texts))
    return losses_L.mean()


def to_nearest_word(prompt_BQD: Tensor, words_VD: Tensor) -> Tensor:
    """Mean squared difference between each vector and the word embedding nearest to it."""
    vectors_ND = prompt_BQD.flatten(0, 1)
    nearest_N = torch.cdist(vectors_ND.detach(), words_VD).argmin(dim=1)
    return F.mse_loss(vectors_ND, words_VD[nearest_N])


@torch.no_grad()
def check(prompter: Prompter, language: LanguageModel, words_VD: Tensor, seed: int) -> dict[str, float]:
    """On unseen captions: nats per token behind their own soft prompt, behind another caption's and behind none; the
    share that is written again word by word; the distance from words, and the soft prompt's own mean square."""
    texts = captions(seed, "text_check", 0, CHECK_PAIRS)
    prompt_BQD = prompter(read(language, texts))
    written = language.generate(prompt_BQD, [""] * len(texts), max_new_tokens=SIZE["longest"], num_beams=1)
    metrics = {
        "nats": written_again(language, prompt_BQD, texts),
        "nats_of_another": written_again(language, prompt_BQD.roll(1, dims=0), texts),
        "nats_without": written_again(language, None, texts),
        "exact": sum(one == two for one, two in zip(written, texts, strict=True)) / len(texts),
        "to_nearest_word": to_nearest_word(prompt_BQD, words_VD),
        "mean_square": prompt_BQD.square().mean(),
    }
    return {name: round(float(value), 4) for name, value in metrics.items()} | {"n": len(texts)}
