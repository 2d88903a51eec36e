"""The mini-world's own metrics for the language model: captions scored against the scene graph, answers by the number
of objects, and its answers from a description instead of the image."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch

from lit_blip2.distributed import gather_lists
from lit_blip2.evaluation.items import Items
from lit_blip2.evaluation.vqa import type_metric, vqa_scores
from lit_blip2.lit.module import LitBLIP2
from lit_blip2.lit.stage1 import LitStage1
from lit_blip2.mini.extras import told_first
from lit_blip2.mini.grammar import UNSAID, Caption, Mention, caption_text
from lit_blip2.mini.scene_accuracy import SceneAccuracy
from lit_blip2.mini.scene_files import HOW_TO_MAKE, load_scenes
from lit_blip2.mini.scores import Score
from lit_blip2.mini.world import OBJECT_COUNTS, Scene

WAY_OUT = (
    "With data of your own, leave SceneScores out of trainer.callbacks (--trainer.callbacks=null leaves out all that "
    f"the experiment names), or start from experiments/own_data_opt.yaml; {HOW_TO_MAKE}"
)


class Reading(NamedTuple):
    """A question answered from a description: its image and number, the answer, the annotators' answers, the
    question's type, the gold answer's nats and its number of tokens."""

    image_id: int
    question_id: int
    answer: str
    truth: list[str]
    type: str
    nats: float
    tokens: int


class SceneScores(L.Callback):
    """Logs caption/{precision,recall,exact} (mini/scores.py), vqa/objects_<n>, and how well the language model reads:
    in `test`, and where it is not frozen at every validation too, which then asks each question twice.

    vqa/objects_<n> is the accuracy over all questions on scenes of n objects. Which types of question there are depends
    on n, so compare runs at one n, not one n with another.

    The language model gets the same questions, put in the same way, after a full and true description of the scene
    instead of the image:

        llm/text_qa     the accuracy of its answers, mean over types: the reference above vqa/mean_over_types, as
                        vqa/no_image is the one below.
        llm/text_type_<name>  the accuracy on one type of question, as vqa/type_<name>.
        llm/text_loss   nats per token of the answers that most annotators gave, end mark included: the sum over all
                        questions' tokens by their number. It shows forgetting before an answer turns.

    Args:
        scenes_val: scene graphs of the validation images, in the data's root. scenes_test: of the test images.
        styled: captions may be written in any style of mini/styles.py; without it, an article that is missing is wrong.
    Raises:
        FileNotFoundError: no such scene graphs. ValueError: stage 1, or an image without a scene.
    """

    def __init__(
        self,
        scenes_val: str = "annotations/scenes_val.json",
        scenes_test: str = "annotations/scenes_test.json",
        styled: bool = False,
    ):
        self.styled = styled
        self.files = {"val": scenes_val, "test": scenes_test}
        self.scenes: dict[int, Scene] = {}

    def metric_names(self, pl_module: LitBLIP2, tasks: set[str], command: str) -> set[str]:
        """What this callback adds to LitBLIP2.metric_names."""
        if pl_module.generation is None:
            return set()
        names = {f"caption/{name}" for name in Score._fields} if "caption" in tasks else set()
        if "vqa" not in tasks:
            return names
        reads = command == "test" or not pl_module.generation.net.language.frozen
        names |= {f"vqa/objects_{count}" for count in OBJECT_COUNTS}
        return names | ({"llm/text_qa", "llm/text_type_*", "llm/text_loss"} if reads else set())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if isinstance(pl_module, LitStage1):
            raise ValueError(f"SceneScores reads generated captions, {type(pl_module).__name__} has none: leave it out")
        file = trainer.datamodule.root / self.files["val" if stage in ("fit", "validate") else "test"]
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing, the mini-world's scenes by which SceneScores scores. {WAY_OUT}"
            )
        self.scenes = load_scenes(file).scenes

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: LitBLIP2) -> None:
        """Runs before the module's own epoch end: `predictions` holds this rank's."""
        if (generation := pl_module.generation) is None:
            return
        seen = [(each, self._scene(each["image_id"])) for each in generation.predictions]
        told = [(each, scene) for each, scene in seen if each["task"] == "caption"]
        asked = [(each, scene) for each, scene in seen if each["task"] == "vqa" and each["answers"]]
        captions = SceneAccuracy(self.styled)
        texts, ids = ([row[key] for row, _ in told] for key in ("caption", "image_id"))
        captions.update(texts, [scene for _, scene in told], ids)
        right = vqa_scores([each["answer"] for each, _ in asked], [each["answers"] for each, _ in asked])
        answers = [
            (each["image_id"], each["question_id"], len(scene.objects), score)
            for (each, scene), score in zip(asked, right, strict=True)
        ]
        if any(gather_lists([len(told)])):
            captions.compute()
        items = captions.items | accuracy_by_objects(gather_lists(answers))
        if trainer.testing or not generation.net.language.frozen:
            items |= reading_items(gather_lists(self._read(trainer, pl_module, asked)))
        pl_module.log_dict({name: each.value() for name, each in items.items()})
        pl_module.other_items |= items

    on_test_epoch_end = on_validation_epoch_end

    def _read(
        self, trainer: L.Trainer, pl_module: LitBLIP2, asked: Sequence[tuple[dict[str, Any], Scene]]
    ) -> list[Reading]:
        """Each question that this rank has asked, read."""
        question = pl_module.generation.question
        prompts = [f"{description(scene)} " + question.replace("{}", each["question"]) for each, scene in asked]
        readings, block = [], trainer.datamodule.eval_batch_size
        for first in range(0, len(prompts), block):
            given = [each for each, _ in asked[first : first + block]]
            readings += read(pl_module, prompts[first : first + block], given)
        return readings

    def _scene(self, image_id: int) -> Scene:
        if image_id not in self.scenes:
            files = " and ".join(self.files.values())
            raise ValueError(f"image {image_id} has no scene in {files}: it is of other data. {WAY_OUT}")
        return self.scenes[image_id]


def accuracy_by_objects(rows: Sequence[tuple[int, int, int, float]]) -> dict[str, Items]:
    """(image id, question id, objects in the scene, score) to vqa/objects_<n>, for each n that there is."""
    by_count: dict[int, list] = defaultdict(list)
    for image_id, question_id, count, score in rows:
        by_count[count].append((score, image_id, question_id))
    return {
        f"vqa/objects_{count}": Items(*map(np.array, zip(*those, strict=True)))
        for count, those in sorted(by_count.items())
    }


def read(pl_module: LitBLIP2, prompts: Sequence[str], asked: Sequence[dict[str, Any]]) -> list[Reading]:
    """Prompts that hold a description and a question, answered; `asked` holds their predictions."""
    generation, truths = pl_module.generation, [each["answers"] for each in asked]
    language = generation.net.language
    answers = language.generate(None, prompts, **generation.answering)
    gold = [max(truth, key=truth.count) for truth in truths]
    losses_L, row_L = language.loss(None, language.tokenise(prompts, gold).to(pl_module.device))
    nats_B = torch.zeros(len(prompts), device=row_L.device).index_add(0, row_L, losses_L).tolist()
    tokens_B = torch.bincount(row_L, minlength=len(prompts)).tolist()
    images, ids, types = ([each[key] for each in asked] for key in ("image_id", "question_id", "question_type"))
    return [Reading(*each) for each in zip(images, ids, answers, truths, types, nats_B, tokens_B, strict=True)]


def reading_items(readings: Sequence[Reading]) -> dict[str, Items]:
    """llm/text_qa, llm/text_type_* and llm/text_loss; none of no readings."""
    if not readings:
        return {}
    images, ids, answers, truths, types, nats, tokens = zip(*readings, strict=True)
    about, scores, kinds = (np.array(images), np.array(ids)), np.array(vqa_scores(answers, truths)), np.array(types)
    by_type = {
        f"llm/text_{type_metric(name).removeprefix('vqa/')}": Items(*(each[kinds == name] for each in (scores, *about)))
        for name in sorted(set(types))
    }
    return by_type | {
        "llm/text_qa": Items(scores, *about, strata=kinds),
        "llm/text_loss": Items(np.array([nats, tokens], dtype=float).T, *about),
    }


def description(scene: Scene) -> str:
    """All that words can say of the scene."""
    objects = Caption("full", tuple(Mention(*each[:4]) for each in scene.objects), UNSAID)
    return told_first(caption_text(objects), scene.extra)
