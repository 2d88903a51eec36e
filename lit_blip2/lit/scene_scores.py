"""The mini-world's own figures for stage 2: captions scored against the scene graph, answers by the number of objects,
and the language model answering from a description instead of the image."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import lightning as L

from lit_blip2.evaluation.vqa import summarise, vqa_scores
from lit_blip2.lit.gather import gather_lists
from lit_blip2.lit.stage2 import LitStage2
from lit_blip2.mini.grammar import UNSAID, Caption, Mention, caption_text
from lit_blip2.mini.scores import Score, mean_scores, score_caption
from lit_blip2.mini.world import Scene
from lit_blip2.mini.write import load_scenes


class SceneScores(L.Callback):
    """Logs caption/{precision,recall,exact} (mini/scores.py), vqa/objects_<n>, and in `test` llm/text_qa.

    vqa/objects_<n> is the accuracy over all questions on scenes of n objects. Which types of question there are depends
    on n, so compare runs at one n, not one n with another.

    llm/text_qa is the reference above vqa/mean_over_types, as vqa/no_image is the one below: the frozen language model
    answers the same questions, put in the same way, after a full and true description of the scene. Mean over types.

    Args:
        scenes_val: scene graphs of the validation images, in the data's root. scenes_test: of the test images.
    Raises:
        FileNotFoundError: no such scene graphs. ValueError: another stage, or an image without a scene.
    """

    def __init__(
        self, scenes_val: str = "annotations/scenes_val.json", scenes_test: str = "annotations/scenes_test.json"
    ):
        self.files = {"val": scenes_val, "test": scenes_test}
        self.scenes: dict[int, Scene] = {}

    def metric_names(self, tasks: set[str], command: str) -> set[str]:
        """See LitBLIP2.metric_names."""
        names = {f"caption/{name}" for name in Score._fields} if "caption" in tasks else set()
        return names | ({"llm/text_qa"} if "vqa" in tasks and command == "test" else set())

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, LitStage2):
            raise ValueError(f"SceneScores reads generated captions, {type(pl_module).__name__} has none: leave it out")
        file = self.files["val" if stage in ("fit", "validate") else "test"]
        self.scenes = load_scenes(trainer.datamodule.root / file).scenes

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: LitStage2) -> None:
        """Runs before the module's own epoch end: `predictions` holds this rank's, so the scores are gathered here."""
        captions = [each for each in pl_module.predictions if each["task"] == "caption"]
        own = [score_caption(each["caption"], self._scene(each["image_id"])) for each in captions]
        if scores := gather_lists(own):
            pl_module.log_dict(mean_scores(scores))
        asked = self._asked(trainer, pl_module)
        right = vqa_scores([each["answer"] for each, _ in asked], [each["answers"] for each, _ in asked])
        counts = [len(scene.objects) for _, scene in asked]
        pl_module.log_dict(accuracy_by_objects(gather_lists(list(zip(counts, right, strict=True)))))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: LitStage2) -> None:
        self.on_validation_epoch_end(trainer, pl_module)
        if answers := gather_lists(self._read(trainer, pl_module)):
            given, truths, types = zip(*answers, strict=True)
            pl_module.log("llm/text_qa", summarise(vqa_scores(given, truths), types)["vqa/mean_over_types"])

    def _asked(self, trainer: L.Trainer, pl_module: LitStage2) -> list[tuple[dict[str, Any], Scene]]:
        """The questions that this rank has asked, as its predictions have them, each with the scene it is about."""
        asked = [each for each in pl_module.predictions if each["task"] == "vqa"]
        if not asked:
            return []
        table = trainer.datamodule.tables["test" if trainer.testing else "val"]["vqa"]
        image_of = dict(zip(table.question_ids.tolist(), table.image_ids.tolist(), strict=True))
        return [(each, self._scene(image_of[each["question_id"]])) for each in asked]

    def _read(self, trainer: L.Trainer, pl_module: LitStage2) -> list[tuple[str, list[str], str]]:
        """(answer from the description, the annotators' answers, type) of each question that this rank has asked."""
        asked = self._asked(trainer, pl_module)
        prompts = [
            f"{description(scene)} " + pl_module.question.replace("{}", each["question"]) for each, scene in asked
        ]
        answers, block = [], trainer.datamodule.eval_batch_size
        for first in range(0, len(prompts), block):
            batch = prompts[first : first + block]
            answers += pl_module.net.language.generate(None, batch, **pl_module.answering)
        return [
            (answer, each["answers"], each["question_type"]) for answer, (each, _) in zip(answers, asked, strict=True)
        ]

    def _scene(self, image_id: int) -> Scene:
        if image_id not in self.scenes:
            raise ValueError(f"image {image_id} has no scene in {self.files}: they must belong to the same mini-world")
        return self.scenes[image_id]


def accuracy_by_objects(scores: Sequence[tuple[int, float]]) -> dict[str, float]:
    """(objects in the scene, score) of each question to {"vqa/objects_<n>": mean}, for each n that there is."""
    by_count: dict[int, list[float]] = defaultdict(list)
    for count, score in scores:
        by_count[count].append(score)
    return {f"vqa/objects_{count}": sum(values) / len(values) for count, values in sorted(by_count.items())}


def description(scene: Scene) -> str:
    """All that words can say of the scene's objects."""
    return caption_text(Caption("full", tuple(Mention(*each[:4]) for each in scene.objects), UNSAID))
