"""`data check`: read what an experiment trains and evaluates on, and say what is wrong with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lit_blip2 import words
from lit_blip2.config import Experiment, read
from lit_blip2.data.check import check_images
from lit_blip2.data.experiment import built, names, read_data
from lit_blip2.network import network_class


def check(config: list[Path], sample: int | None = None, workers: int = 0) -> None:
    """Read all images that an experiment trains and evaluates on, or a sample of them, and the captions to train on;
    print counts, problems, lengths, sizes and duplicates, and which words the tokenizers of its network do not know.

    Ends with status 2 where something is wrong: missing files, captions that are empty or cannot be read, images that
    cannot be decoded, samples that an index left out, more unknown words than data.max_unknown_words.

    Args:
        config: the experiment, a YAML file with `data`; given again, files that change it.
        sample: look at this many samples, evenly spread; null: at all of them.
        workers: processes that read; 0: one for each core.
    """
    data = read_data(config)
    data.check_files()
    tables = {split: data.read(split) for split in ("val", "test") if data.tasks(split)}
    pairs = data.train_pairs()
    told = _told(config, words.tables_of(pairs, *tables.values()))
    check_images(data, pairs, tables, names(config), sample, workers)
    words.check_known(told, data.max_unknown_words)


def _told(config: Sequence[Path], tables: Sequence[Any]) -> list[words.Told]:
    """What the tokenizers of an experiment's network know of tables of texts, printed; none where there is no network,
    or no tokenizer."""
    experiments = [read(file) for file in config]
    named = [experiment for experiment in experiments if "net" in experiment.model]
    if not named:
        print("unknown words: not looked at, the experiment names no network and so no tokenizer")
        return []
    with torch.device("meta"):
        net = built(
            config, "net", network_class(_with_class(experiments)), lambda experiment: experiment.model.get("net")
        )
    try:
        net.load_tokenizers()
    except (OSError, ValueError) as error:
        print(f"unknown words: not looked at, {error}")
        return []
    question = [each.model["question"] for each in experiments if "question" in each.model][-1:] or ["{}"]
    told = words.look(net, tables, question[0])
    print(*words.summed(told), sep="\n")
    return told


def _with_class(experiments: Sequence[Experiment]) -> Experiment:
    """The last one that names the class of its model."""
    named = [each for each in experiments if isinstance(each.settings.get("model"), dict)]
    return next((each for each in reversed(named) if each.settings["model"].get("class_path")), experiments[0])
