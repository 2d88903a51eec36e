"""Questions and answers as training data: VQAv2, OK-VQA, GQA or Visual Genome."""

import warnings
from pathlib import Path

from lit_blip2.data.annotations.questions import read_questions
from lit_blip2.data.batches.pairs import FilePairs
from lit_blip2.data.module import PairData, VQAFiles


class VQA(PairData):
    """Questions about images. Each question comes once in an epoch.

    Each time, one of the annotators' answers is drawn, so an answer comes as often as annotators gave it. To train on
    several sets, put them into a Mixture.

    Args:
        train: questions and answers to train on, {questions: FILE, annotations: FILE}; needed for `fit`.
    """

    def __init__(self, root: str = "data/mini", train: VQAFiles | None = None, **kwargs):
        super().__init__(root=root, **kwargs)
        self.train = train

    def train_files(self) -> list[Path]:
        if self.train is None:
            raise ValueError("fit needs questions to train on: set data.train to {questions: FILE, annotations: FILE}")
        return [file for file in self.files_of(self.train) if file]

    def train_pairs(self) -> FilePairs:
        questions = read_questions(*self.files_of(self.train))
        answered = questions.answered()
        if left_out := len(questions) - len(answered):
            warnings.warn(f"{self.train['questions']}: {left_out} questions without an answer left out", stacklevel=2)
        return FilePairs("questions", answered, self.pixels("train", answered.files), self.augment)
