"""`data check`: read what an experiment trains and evaluates on, and say what is wrong with it."""

from collections.abc import Sequence
from typing import Any

import torch

from lit_blip2 import words
from lit_blip2.config import Experiment
from lit_blip2.data.annotations.entries import MISSING, noting
from lit_blip2.data.check import check_images, read_files
from lit_blip2.data.experiment import built, experiments_in, names, read_data
from lit_blip2.data.module import HOW_TO_GET
from lit_blip2.network import network_class
from lit_blip2.terminal import say


def check(config: list[str], sample: int | None = None, workers: int = 0) -> int:
    """Read all images that an experiment trains and evaluates on, or a sample of them, and the captions to train on;
    print counts, problems, lengths, sizes and duplicates, and which words the tokenizers of its network do not know.

    Every file of captions and questions is looked at, also behind a faulty one. Ends with status 1 where something is
    wrong, a line for each: files that are missing or cannot be read, captions that are empty, images that cannot be
    decoded, samples that an index left out, more unknown words than data.max_unknown_words.

    Args:
        config: the experiment, a YAML file with `data`; given again, files that change it. Settings
            behind it change it too, such as --data.max_caption_words=20.
        sample: look at this many samples, evenly spread; null: at all of them.
        workers: processes that read; 0: one for each core.
    """
    data = read_data(config)
    faults: list[str] = []
    pairs, tables = read_files(data, faults)
    if pairs is not None or any(tables.values()):
        told = _told(config, words.tables_of(pairs, *tables.values()))
        with noting(faults):
            check_images(data, pairs, tables, names(config), sample, workers)
        with noting(faults):
            words.check_known(told, data.max_unknown_words)
    for fault in faults:
        say(f"error: {fault}", error=True)
    if any(fault.startswith(MISSING) for fault in faults):
        say(HOW_TO_GET, error=True)
    return 1 if faults else 0


def _told(config: Sequence[str], tables: Sequence[Any]) -> list[words.Told]:
    """What the tokenizers of an experiment's network know of tables of texts, printed; none where there is no network,
    or no tokenizer."""
    experiments = experiments_in(config)
    named = [experiment for experiment in experiments if "net" in experiment.model]
    if not named:
        say("unknown words: not looked at, the experiment names no network and so no tokenizer")
        return []
    with torch.device("meta"):
        net = built(config, "model.net", network_class(_with_class(experiments)))
    try:
        net.load_tokenizers()
    except (OSError, ValueError) as error:
        say(f"unknown words: not looked at, {error}")
        return []
    question = [each.model["question"] for each in experiments if "question" in each.model][-1:] or ["{}"]
    told = words.look(net, tables, question[0])
    say(*words.summed(told))
    return told


def _with_class(experiments: Sequence[Experiment]) -> Experiment:
    """The last one that names the class of its model."""
    named = [each for each in experiments if isinstance(each.settings.get("model"), dict)]
    return next((each for each in reversed(named) if each.settings["model"].get("class_path")), experiments[0])
