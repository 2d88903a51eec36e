"""Frozen models that some ablations need beside the shipped ones, each made by one seeded recipe.

    vit           the shipped image encoder again
    vit_small     a fifth of its size
    opt           the shipped language model again
    opt_small     a fifth of its size
    opt_instruct  the shipped one, tuned to instructions (see instructions.py)
    opt_longer    the shipped one, trained as much longer on documents of its own kind: the control of opt_instruct
    bert          what a mini Q-Former may start from
    prompter      from a caption to a soft prompt for the shipped opt (see prompter.py)

Every folder holds figures.json: the model's own check, and under `settings` all that made it.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import OPTForCausalLM, PreTrainedTokenizerFast

from lit_blip2.contents import read_object
from lit_blip2.mini.train import bert as train_bert
from lit_blip2.mini.train import language as train_lm
from lit_blip2.mini.train import opt as train_opt
from lit_blip2.mini.train import prompter as train_prompter
from lit_blip2.mini.train import vit as train_vit
from lit_blip2.mini.train.instructions import CHECKED_FORMS, draw_instructed, draw_plain
from lit_blip2.offline import offline
from lit_blip2.paths import PACKAGE_PARENT
from lit_blip2.whole_files import written_whole

VERSION = 1  # of the recipes; models of an older one are refused
OPT_SMALL = {"width": 64, "layers": 3}
SHIPPED_OPT = PACKAGE_PARENT / "lit_blip2/mini/weights/opt"
TUNING_STEPS, TUNING_LR = 600, 5e-4


class Maker(NamedTuple):
    """How a model is made.

    train: (folder, seed, steps) -> metrics; writes the folder. steps: unless others are asked for. recipe: the other
    settings, as figures.json keeps them.
    """

    train: Callable[[Path, int, int], dict[str, Any]]
    steps: int
    recipe: dict[str, Any]


def _small_opt(tokenizer: PreTrainedTokenizerFast) -> OPTForCausalLM:
    return OPTForCausalLM(train_opt.opt_config(tokenizer, **OPT_SMALL))


def _shipped_opt(_tokenizer: PreTrainedTokenizerFast) -> OPTForCausalLM:
    with offline():
        return OPTForCausalLM.from_pretrained(SHIPPED_OPT, dtype=torch.float32)


def _train_opt(recipe: train_lm.Recipe, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    return train_lm.train(recipe, folder, seed, steps)


def _vit(size: dict[str, int]) -> Maker:
    recipe = train_vit.VIT_KWARGS | size | {"batch": train_vit.BATCH, "peak_lr": train_vit.PEAK_LR}
    return Maker(partial(train_vit.train_vit, size=size, name="figures.json"), train_vit.STEPS, recipe)


def _opt(size: dict[str, int], **changes: Any) -> Maker:
    recipe = size | {"batch": train_lm.BATCH, "peak_lr": train_lm.PEAK_LR}
    return Maker(partial(_train_opt, train_opt.RECIPE._replace(**changes)), train_opt.STEPS, recipe)


def _digest_of_opt() -> str:
    return hashlib.sha256((SHIPPED_OPT / "model.safetensors").read_bytes()).hexdigest()


def _continued_opt(draw: train_lm.Draw) -> Maker:
    recipe = {"from_sha256": _digest_of_opt(), "reads": draw.__name__, "batch": train_lm.BATCH, "peak_lr": TUNING_LR}
    changes = dict(model=_shipped_opt, draw=draw, peak_lr=TUNING_LR, forms=CHECKED_FORMS)
    return Maker(partial(_train_opt, train_opt.RECIPE._replace(**changes)), TUNING_STEPS, recipe)


def _bert() -> Maker:
    recipe = train_bert.SIZE | {"batch": train_bert.BATCH, "peak_lr": train_bert.PEAK_LR}
    return Maker(train_bert.train_bert, train_bert.STEPS, recipe)


def _prompter() -> Maker:
    recipe = train_prompter.SIZE | {"for_sha256": _digest_of_opt(), "style": train_prompter.STYLE}
    recipe |= {"words_weight": train_prompter.WORDS_WEIGHT}
    recipe |= {"batch": train_prompter.BATCH, "peak_lr": train_prompter.PEAK_LR}
    train = partial(train_prompter.train_prompter, language_folder=SHIPPED_OPT)
    return Maker(train, train_prompter.STEPS, recipe)


MAKERS: dict[str, Callable[[], Maker]] = {
    "vit": partial(_vit, {}),
    "vit_small": partial(_vit, train_vit.SMALL),
    "opt": partial(_opt, {"width": 128, "layers": 4}),
    "opt_small": partial(_opt, OPT_SMALL, model=_small_opt),
    "opt_instruct": partial(_continued_opt, draw_instructed),
    "opt_longer": partial(_continued_opt, draw_plain),
    "bert": _bert,
    "prompter": _prompter,
}


def make_model(name: str, out: Path, seed: int = 0, steps: int | None = None) -> Path:
    """Train the model into OUT/NAME, or leave it there if it has the same settings; the folder.

    It is written to a temporary folder beside and renamed at the end: a model is complete or absent. Raises ValueError
    where a model of other settings, or something else, is in its place.
    """
    maker, folder = MAKERS[name](), Path(out) / name
    steps = maker.steps if steps is None else steps
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2")
    settings = {"version": VERSION, "model": name, "seed": seed, "steps": steps} | maker.recipe
    if folder.exists():
        _check_existing(folder, settings)
        if name.startswith("vit"):
            train_vit.write_card(folder)  # older folders have none
        print(f"{folder} is there already.", flush=True)
        return folder
    print(f"Making {folder}: {steps} steps on one core.", flush=True)
    with written_whole(folder) as part:
        part.mkdir()
        metrics = maker.train(part, seed=seed, steps=steps) | {"settings": settings}
        (part / "figures.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return folder


def _check_existing(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / "figures.json"
    if not file.is_file():
        raise ValueError(f"{folder} is no complete model ({file} is missing): remove it, or write elsewhere")
    found = read_object(file).get("settings", {})
    wanted = json.loads(json.dumps(settings))
    fields = [key for key in found | wanted if found.get(key, "absent") != wanted.get(key, "absent")]
    if wrong := [f"{key}={found.get(key, 'absent')} (wanted {wanted.get(key, 'absent')})" for key in fields]:
        raise ValueError(f"{folder} holds a model of {', '.join(wrong)}: remove it, or write elsewhere")
