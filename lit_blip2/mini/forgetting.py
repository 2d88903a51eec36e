"""What forgetting is made of: whether the language model still answers behind the soft prompt, or writes captions.

Legend: B questions, P soft prompt positions, D width, L targets of all questions, V vocabulary, A words that can be
answers, I images.
"""

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lit_blip2.distributed import gather_lists
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.vqa import vqa_scores
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.mini.scene_files import load_scenes
from lit_blip2.mini.scene_scores import WAY_OUT, description
from lit_blip2.mini.styles import BEFORE
from lit_blip2.mini.world import COLOURS, OBJECT_COUNTS, PLACES, SHAPES, SIZES, Scene

# First words: of captions of any style that open no answer, and all words that can open an answer.
OPENINGS = frozenset({"a", "an", *(piece.split()[0] for piece in BEFORE)})
ANSWERS = ("yes", "no", *map(str, (0, *OBJECT_COUNTS)), *COLOURS, *SHAPES, *SIZES, *PLACES)
NAMES = ("vqa/opens_as_caption", "vqa/answer_mass", "llm/text_qa_own", "llm/text_qa_other")
CONSTANCY = "bridge/constancy"


class Forgetting(L.Callback):
    """Logs at each validation, and in `test`, over the questions that are evaluated:

        vqa/opens_as_caption  the share of answers whose first word opens captions and no answer.
        vqa/answer_mass       the probability that the first word after a question is one that can be an answer.
        llm/text_qa_own       the accuracy, mean over types, of answers to the question behind the image's soft prompt
                              AND a full description of the scene; llm/text_qa has no soft prompt.
        llm/text_qa_other     the same behind the soft prompt of another image.
        bridge/constancy      the norm of the mean of the soft prompts over images, over their mean norm: 1 where all
                              images have the same one.

    It asks each question three times more.

    Args:
        scenes_val: scene graphs of the validation images, in the data's root. scenes_test: of the test images.
    Raises:
        FileNotFoundError: no such scene graphs.
    """

    def __init__(
        self, scenes_val: str = "annotations/scenes_val.json", scenes_test: str = "annotations/scenes_test.json"
    ):
        self.files = {"val": scenes_val, "test": scenes_test}
        self.scenes: dict[int, Scene] = {}
        self.rows: list[tuple] = []
        self.prompts: dict[int, Tensor] = {}

    def metric_names(self, pl_module: LitBLIP2, tasks: set[str], command: str) -> set[str]:
        """What this callback adds to LitBLIP2.metric_names."""
        return {*NAMES, CONSTANCY} if pl_module.generation is not None and "vqa" in tasks else set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        file = trainer.datamodule.root / self.files["val" if stage in ("fit", "validate") else "test"]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, the mini-world's scenes that Forgetting describes. {WAY_OUT}")
        self.scenes = load_scenes(file).scenes

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: LitBLIP2) -> None:
        self.rows, self.prompts = [], {}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: LitBLIP2, outputs: Any, batch: dict[str, Any], *_: Any
    ) -> None:
        if pl_module.generation is None or batch["task"] != "vqa" or not len(batch["image_id"]):
            return
        with torch.no_grad():
            self._look(pl_module, batch)

    def _look(self, pl_module: LitBLIP2, batch: dict[str, Any]) -> None:
        generation, ids = pl_module.generation, batch["image_id"].tolist()
        prefix_BPD = generation.soft_prompts(batch)
        asked = generation.prompts_of(batch)
        told = [f"{description(self.scenes[each])} {prompt}" for each, prompt in zip(ids, asked, strict=True)]
        places = torch.tensor(other_images(ids), device=prefix_BPD.device)
        language, how = generation.net.language, generation.answering
        own = language.generate(prefix_BPD, told, **how)
        other = language.generate(prefix_BPD[places], told, **how)
        mass = answer_mass(language, prefix_BPD, asked)
        self.prompts |= {each: row.float().flatten() for each, row in zip(ids, prefix_BPD)}
        truths = batch["answers"]
        scores = [vqa_scores(each, truths) for each in (own, other)]
        self.rows += zip(ids, batch["question_id"], batch["question_type"], mass, *scores, strict=True)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: LitBLIP2) -> None:
        """Runs before the module's own epoch end: `predictions` holds this rank's."""
        if pl_module.generation is None:
            return
        answers = {each["question_id"]: each["answer"] for each in pl_module.generation.predictions if "answer" in each}
        rows = gather_lists([(*each, float(opens_as_caption(answers[each[1]]))) for each in self.rows])
        vectors_ID = torch.stack(list(self.prompts.values())) if self.prompts else torch.zeros(0, 1)
        sums = gather_lists([(vectors_ID.sum(0).cpu(), float(vectors_ID.norm(dim=1).sum()), len(vectors_ID))])
        if not rows:
            return
        items = items_of(rows)
        pl_module.log_dict({name: each.value() for name, each in items.items()} | {CONSTANCY: constancy(sums)})
        pl_module.other_items |= items

    on_test_epoch_start, on_test_batch_end = on_validation_epoch_start, on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end


def opens_as_caption(answer: str) -> bool:
    return next(iter(answer.lower().split()), "") in OPENINGS


def other_images(ids: list[int]) -> list[int]:
    """For each row the place of one of another image, half the rows on or the next that is; its own where all rows are
    of one image."""
    count = len(ids)

    def other(row: int) -> int:
        turn = ((row + count // 2 + step) % count for step in range(count))
        return next((place for place in turn if ids[place] != ids[row]), row)

    return list(map(other, range(count)))


def answer_mass(language: Any, prefix_BPD: Tensor, prompts: list[str]) -> list[float]:
    """The probability, for each prompt, that the next token opens an answer."""
    opening_A = sorted({each[0] for each in language.words_to_learn(ANSWERS, [True] * len(ANSWERS))})
    text = language.tokenise(prompts, ["yes"] * len(prompts)).to(prefix_BPD.device)
    logits_LV, row_L = language.logits(prefix_BPD, text)
    first_L = torch.cat([row_L.new_ones(1), row_L.diff()]) != 0
    return logits_LV[first_L].softmax(-1)[:, opening_A].sum(-1).tolist()


def constancy(sums: list[tuple[Tensor, float, int]]) -> float:
    """The norm of the mean over the mean norm, from each rank's sum of vectors, sum of norms, and number."""
    total_D, norms = sum(vector for vector, _, count in sums if count), sum(norm for _, norm, _ in sums)
    return float(total_D.norm()) / norms


def items_of(rows: list[tuple]) -> dict[str, Items]:
    """(image id, question id, type, answer mass, own score, other's score, whether it opens as a caption) of each
    question to what stands behind the metrics."""
    images, ids, types, mass, own, other, opens = map(np.array, zip(*rows, strict=True))
    found = {"vqa/opens_as_caption": Items(opens, images, ids), "vqa/answer_mass": Items(mass, images, ids)}
    return found | {
        "llm/text_qa_own": Items(own, images, ids, strata=types),
        "llm/text_qa_other": Items(other, images, ids, strata=types),
    }
