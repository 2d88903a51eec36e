"""Does a batch of 32 give the texts that its prompts give one by one, and how much sooner?

`LanguageModel.generate` on both sides, float32, after soft prompts of 32 positions and prompts of 1 to 12 words, greedy
and with 5 beams; captions of at most 20 new tokens. The language model is an OPT of the 125M's shape with random
weights and the mini-world's words. It is made anew from a seed.

    OMP_NUM_THREADS=2 python benchmarks/generation.py             # minutes on two idle cores
    python benchmarks/generation.py --quick                       # tiny size, seconds: does it all run?

Raises AssertionError where a text differs. The last line is JSON: speedup_greedy and speedup_beam5 (one by one over
batch), equal_greedy and equal_beam5 (share of equal texts), and what they rest on.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed

from benchmarks.measure import interleave, ratio
from lit_blip2.allocator import keep_freed_memory
from lit_blip2.mini.vocabulary import opt_tokenizer
from lit_blip2.model.language import LanguageModel

SIZE = dict(hidden_size=768, ffn_dim=3072, num_hidden_layers=12, num_attention_heads=12, word_embed_proj_dim=768)
QUICK = dict(hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16)
PHRASE = "Question: what colour is the small circle left of the large red square ? Answer:"
SETTINGS = {"greedy": 1, "beam5": 5}  # beams


def make_model(size: dict[str, int], seed: int = 0) -> LanguageModel:
    """A random OPT, loaded as an experiment's is. Wide weights, and the end mark's a little wider: texts then
    differ, and end at different places."""
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    tokenizer = opt_tokenizer()
    ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=0)
    config = OPTConfig(vocab_size=len(tokenizer), max_position_embeddings=128, init_std=0.08, **ids, **size)
    model = OPTForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] *= 1.5
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        language = LanguageModel(folder, dtype="float32")
        language.load()
    return language


def make_prompts(language: LanguageModel, rows: int, seed: int = 1) -> tuple[Tensor, list[str]]:
    """Soft prompts [B, 32, D], and prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (rows,), generator=generator).tolist()
    prompts = [" ".join(PHRASE.split()[:length]) for length in lengths]
    return torch.randn(rows, 32, language.width, generator=generator), prompts


def in_batch(language: LanguageModel, prefix_BPD: Tensor, prompts: list[str], beams: int, new: int) -> list[str]:
    return language.generate(prefix_BPD, prompts, max_new_tokens=new, num_beams=beams)


def one_by_one(language: LanguageModel, prefix_BPD: Tensor, prompts: list[str], beams: int, new: int) -> list[str]:
    rows = zip(prefix_BPD.split(1), prompts)
    return [text for prefix, prompt in rows for text in in_batch(language, prefix, [prompt], beams, new)]


def compare(language: LanguageModel, rows: int, beams: int, new: int, repetitions: int) -> dict[str, float]:
    """Share of equal texts, how many differ from one another, their mean length, and times faster."""
    given = (language, *make_prompts(language, rows), beams, new)
    together, apart = in_batch(*given), one_by_one(*given)
    equal = sum(a == b for a, b in zip(together, apart)) / rows
    assert equal == 1.0, [pair for pair in zip(together, apart) if pair[0] != pair[1]]
    sides = {"together": partial(in_batch, *given), "apart": partial(one_by_one, *given)}
    seconds = interleave(sides, repetitions, warm_up=0)  # the look at equality was one turn
    faster, least, most = ratio(seconds["apart"], seconds["together"])
    words = sum(len(text.split()) for text in together) / rows
    print(f"{beams} beam(s): {faster:.2f} times faster ({least:.2f} to {most:.2f}, n = {repetitions})", flush=True)
    return {"speedup": faster, "equal": equal, "different_texts": len(set(together)), "mean_words": words}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny size: a smoke test, no result")
    parser.add_argument("--rows", type=int, default=32, help="prompts of the batch")
    parser.add_argument("--new", type=int, default=20, help="new tokens at most")
    parser.add_argument("--repetitions", type=int, default=3, help="counted turns")
    chosen = parser.parse_args(arguments)
    keep_freed_memory()  # as the command line does
    language = make_model(QUICK if chosen.quick else SIZE)
    result: dict[str, float | int | str] = {}
    for name, beams in SETTINGS.items():
        figures = compare(language, chosen.rows, beams, chosen.new, chosen.repetitions)
        result |= {f"{figure}_{name}": value for figure, value in figures.items()}
    rest = {"rows": chosen.rows, "new": chosen.new, "repetitions": chosen.repetitions}
    print(json.dumps(result | rest | {"threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
