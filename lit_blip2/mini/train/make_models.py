"""One seeded command that makes the frozen models and the tokenizers again, one core each.

    python -m lit_blip2.mini.train.make_models --out DIR [--seed 0] [--only opt|t5|vit]

DIR/opt and DIR/t5 are Hugging Face folders, DIR/bert a tokenizer, DIR/vit.safetensors a timm state dict; the metrics
are in DIR/opt/figures.json, DIR/t5/figures.json and DIR/vit_figures.json.
"""

import argparse
import multiprocessing
from pathlib import Path


def make_opt(out: Path, seed: int) -> None:
    import torch

    from lit_blip2.mini.train.opt import train_opt

    torch.set_num_threads(1)
    print(train_opt(out / "opt", seed))


def make_t5(out: Path, seed: int) -> None:
    import torch

    from lit_blip2.mini.train.t5 import train_t5

    torch.set_num_threads(1)
    print(train_t5(out / "t5", seed))


def make_vit(out: Path, seed: int) -> None:
    import torch

    from lit_blip2.mini.train.vit import train_vit
    from lit_blip2.mini.vocabulary import save_bert_tokenizer

    torch.set_num_threads(1)
    save_bert_tokenizer(out / "bert")
    print(train_vit(out, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("opt", "t5", "vit"))
    args = parser.parse_args()
    makers = {"opt": make_opt, "t5": make_t5, "vit": make_vit}
    chosen = [makers[args.only]] if args.only else list(makers.values())
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=make, args=(args.out, args.seed)) for make in chosen]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
