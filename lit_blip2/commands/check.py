"""`data check`: read the data of an experiment, and report what is wrong with them."""

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
    """Check the data of an experiment before training: read its images, captions and questions, and report problems.

    Prints counts, caption lengths, image sizes, duplicates, and the words that the network's tokenizers do not know.
    All files are checked, even if one of them is faulty. The exit status is 1 if there is a problem: a missing or
    unreadable file, an empty caption, an image that cannot be decoded, a sample that an index left out, or more
    unknown words than data.max_unknown_words. Each problem is a row of `--out`.

    Args:
        config: the experiment, a YAML file with `data`. May be given again: later files change settings. Settings
            behind it change them too, such as --data.max_caption_words=20.
        sample: check this number of evenly spaced samples; null: all samples.
        workers: number of processes that read; 0: one for each core.
        out: CSV file for the problems, written if there are any; null: faults.csv in the working folder.
    """
    if sample is not None and sample < 1:
        raise ValueError(f"--sample {sample} must be at least 1; leave it out to check all samples")
    if workers < 0:
        raise ValueError(f"--workers {workers} must be at least 0, which starts a process for each core")
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
    ways = [way_to(path, data.root, data.how_to_get) for path in missing]
    if ways:
        say(*dict.fromkeys(ways), error=True)
    if count := report.faults.total():
        say(f"error: {count:,} problems in the data of {names(config)}, each a row of {file}", error=True)
    if report.rows or faults or file.exists():
        _write(file, [*(("", fault, "", "") for fault in faults), *report.rows])
    return 1 if count or faults else 0


def _checked(file: Path) -> Path:
    """The file. Raises ValueError if it exists and is not a list of faults."""
    if file.exists() and not read_text(file).startswith(",".join(COLUMNS)):
        raise ValueError(f"{file} is there and no list of faults, which would be written over it: give another --out")
    return file


def _write(file: Path, rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Write each fault as a row of CSV. Data without faults replace an older list by its header alone."""
    with written_whole(file) as part, part.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([COLUMNS, *rows])


def _told(config: Sequence[str], tables: Sequence[Any]) -> list[words.Told]:
    """Print and return how many words of the texts each tokenizer of the network knows. Empty without a network or
    without tokenizer files."""
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
    """The last experiment that names the class of its model; else the first."""
    named = [each for each in experiments if isinstance(each.settings.get("model"), dict)]
    return next((each for each in reversed(named) if each.settings["model"].get("class_path")), experiments[0])
