"""Saves predictions line by line during an evaluation, so that an interrupted one can continue."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from lit_blip2.config import from_text
from lit_blip2.contents import DataError, parsed_json

if TYPE_CHECKING:
    from lit_blip2.data.module import PairData

Prediction = dict[str, Any]
Key = tuple[str, int]


def key_of(prediction: Prediction) -> Key:
    """The key of a prediction: its task, and the image of a caption or the question of an answer."""
    return prediction["task"], prediction["image_id" if prediction["task"] == "caption" else "question_id"]


def _prediction(line: bytes) -> Prediction | None:
    """The prediction in a line; None if a crash has left something else there."""
    try:
        told = parsed_json(line, "")
        return told if all(type(part) in (str, int) for part in key_of(told)) else None
    except (DataError, KeyError, TypeError):
        return None


class Unfinished:
    """Predictions of an evaluation: those that earlier, interrupted processes have saved, and those that this one adds.

    Each process writes a file of its own, whose first line identifies the evaluation. Files of other evaluations are
    ignored. The number of ranks may change.

    Args:
        folder: the run's. command: test or predict. rank: of this process. of: what the predictions depend on.
    """

    def __init__(self, folder: Path, command: str, rank: int, of: Sequence[str]):
        digest = hashlib.blake2b("\0".join(of).encode(), digest_size=16).hexdigest()
        self.folder, self.pattern, self.mark = folder, f".{command}.*.jsonl", json.dumps({"evaluation": digest})
        earlier = sorted(folder.glob(self.pattern))
        self.file = folder / f".{command}.{len(earlier)}.{rank}.jsonl"  # a new one: another's last line may be cut off
        self.done = {key_of(each): each for file in earlier for each in self._read(file)}
        if self.done:
            rank_zero_info(f"{len(self.done)} predictions of an interrupted {command} are there: going on from them")

    def _read(self, file: Path) -> Iterable[Prediction]:
        """The predictions in a file of the same evaluation. The last line may be cut off. A line that is no prediction
        is skipped, and its prediction is made again."""
        first, *lines = file.read_bytes().split(b"\n")
        whole = map(_prediction, lines[:-1]) if first == self.mark.encode() else ()
        return [each for each in whole if each is not None]

    def take(self, keys: Iterable[Key]) -> list[Prediction] | None:
        """The predictions of a batch if all of them are saved, else None: then the whole batch is made again."""
        found = [self.done.get(key) for key in keys]
        return None if None in found else found

    def add(self, predictions: Iterable[Prediction]) -> None:
        """Save the predictions of a batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        new = not self.file.exists()
        with self.file.open("a", encoding="utf-8") as file:
            file.writelines([f"{self.mark}\n"] * new + [f"{json.dumps(each)}\n" for each in predictions])

    def remove(self) -> None:
        """Remove the files of all ranks after the evaluation."""
        for file in self.folder.glob(self.pattern):
            file.unlink(missing_ok=True)


def predictions_made_of(config: str, weights: str, precision: str, data: "PairData") -> list[str]:
    """All that a prediction depends on: model, weights, precision and data. Batch size and number of ranks are left
    out.

    Args: config: the resolved configuration as YAML. weights: the checkpoint that is tested, or a text that identifies
    the weights of a module that was loaded before. precision: the trainer's.
    data: set up for the test, with the validation questions too if examples are drawn from them.
    """
    model = from_text(config, "this run").settings.get("model")
    looks = [str(data.root), data.images, str(data.features), str(data.image_size), str(data.seed)]
    tables = [
        f"{split} {task} {table.digest()}"
        for split, of_split in sorted(data.tables.items())
        for task, table in of_split.items()
        if task == "vqa" or (split, task) == ("test", "caption")
    ]
    return [json.dumps(model), _stamp(weights), precision, *looks, *tables]


def _stamp(weights: str) -> str:
    """The path with size and time of a checkpoint file; if there is no such file, the text itself."""
    if not (file := Path(weights)).is_file():
        return weights
    state = file.stat()
    return f"{weights} {state.st_size} {state.st_mtime_ns}"
