"""`data check`: read what an experiment trains and evaluates on, and say what is wrong with it."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lit_blip2 import words
from lit_blip2.config import Experiment
from lit_blip2.contents import read_text
from lit_blip2.data.annotations.entries import MISSING, noting
from lit_blip2.data.check import CheckReport, check_images, read_files
from lit_blip2.data.experiment import built, experiments_in, names, read_data
from lit_blip2.data.missing import way_to
from lit_blip2.network import network_class
from lit_blip2.terminal import say
from lit_blip2.whole_files import written_whole

FAULTS, COLUMNS = "faults.csv", ("source", "problem", "file", "details")


def check(config: list[str], sample: int | None = None, workers: int = 0, out: Path | None = None) -> int:
    """Read all images that an experiment trains and evaluates on, or a sample of them, and the captions to train on;
    print counts, problems, lengths, sizes and duplicates, and which words the tokenizers of its network do not know.

    Every file of captions and questions is looked at, also behind a faulty one. Ends with status 1 where something is
    wrong: files that are missing or cannot be read, captions that are empty, images that cannot be decoded, samples
    that an index left out, more unknown words than data.max_unknown_words. Each fault is a row of `--out`.

    Args:
        config: the experiment, a YAML file with `data`; given again, files that change it. Settings
            behind it change it too, such as --data.max_caption_words=20.
        sample: look at this many samples, evenly spread; null: at all of them.
        workers: processes that read; 0: one for each core.
        out: file for the faults; null: faults.csv in the working folder. It is written where there are some.
    """
    data, file = read_data(config), _checked(Path(FAULTS) if out is None else out)
    faults: list[str] = []
    report = CheckReport()
    pairs, tables = read_files(data, faults)
    if pairs is not None or any(tables.values()):
        told = _told(config, words.tables_of(pairs, *tables.values()))
        with noting(faults):
            check_images(report, data, pairs, tables, sample, workers)
        with noting(faults):
            words.check_known(told, data.max_unknown_words)
    for fault in faults:
        say(f"error: {fault}", error=True)
    missing = [Path(fault.removeprefix(MISSING)) for fault in faults if fault.startswith(MISSING)]
    ways = [data.how_to_get or way_to(path, data.root) for path in missing]
    if ways:
        say(*dict.fromkeys(ways), error=True)
    if count := report.faults.total():
        say(f"error: {count:,} problems in {names(config)}, each a row of {file}", error=True)
    if report.rows or faults or file.exists():
        _write(file, [*(("", fault, "", "") for fault in faults), *report.rows])
    return 1 if count or faults else 0


def _checked(file: Path) -> Path:
    """Raises ValueError for a file that is there and no list of faults."""
    if file.exists() and not read_text(file).startswith(",".join(COLUMNS)):
        raise ValueError(f"{file} is there and no list of faults, which would be written over it: give another --out")
    return file


def _write(file: Path, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Each fault as a row of CSV; of sound data the first line alone, in the place of what was found before."""
    with written_whole(file) as part, part.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([COLUMNS, *rows])


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
