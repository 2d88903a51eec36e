"""Commands to type after a command has ended, which go on from its run."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lit_blip2.config import Experiment, classes_in, flat, read
from lit_blip2.contents import DataError
from lit_blip2.runs import CONFIG

COMMAND = "python -m lit_blip2"
MOST = 3  # experiments that start from a run
TESTED = ("test", "vqa_test", "binding_test")  # what a data module tests on


def after_fit(run: Path, files: Sequence[Path], experiment: Experiment, changed: bool) -> list[str]:
    """Commands for a run that has been trained: its test; experiments beside its own that start from it; a question, if
    it has a language model. changed: whether it has settings that its files do not show."""
    given = [run / CONFIG] if changed else files
    configs = " ".join(f"--config {file}" for file in given)
    lines = [f"{COMMAND} test {configs} --ckpt_path {run}"] if any(map(experiment.data.get, TESTED)) else []
    for start in starting_from(run, files) if files and _has_same_net(experiment, files) else []:
        if (parts := _with_partners(start, files)) is not None:
            configs = " ".join(f"--config {file}" for file in parts)
            lines.append(f"{COMMAND} fit {configs} --model.init_from={run}{_root(start, experiment)}")
    return lines + after_test(run, experiment)


def _with_partners(start: Path, files: Sequence[Path]) -> list[Path] | None:
    """An experiment with a partner of each further file that the run had: own_data_opt.yaml goes with small/opt.yaml if
    own_data_stage1.yaml had small/stage1.yaml. None if a partner is not there."""
    first, *further = files
    partners = [
        each.with_stem(start.stem.removeprefix(first.stem.removesuffix(each.stem)))
        for each in further
        if first.stem.endswith(each.stem)
    ]
    return [start, *partners] if len(partners) == len(further) and all(each.exists() for each in partners) else None


def _has_same_net(experiment: Experiment, files: Sequence[Path]) -> bool:
    """Whether the network is the one of the run's files: from another, the experiments beside them cannot start."""
    ours, written = flat(experiment.net, ""), {}
    for file in files:
        written |= flat(read(file).net, "")
    return all(ours.get(place) == value for place, value in written.items() if value is not None)


def _root(file: Path, experiment: Experiment) -> str:
    """The argument for an experiment's data folder, if the experiment in `file` has another; else empty."""
    root = experiment.data.get("root")
    return f" {shlex.quote(f'--data.root={root}')}" if root and root != read(file).data.get("root", root) else ""


def after_test(run: Path, experiment: Experiment) -> list[str]:
    """Commands for a run that has been tested."""
    if not experiment.language:
        return []
    allow = "".join(f" --allow {each}" for each in own_modules(experiment))
    return [f'{COMMAND} ask --checkpoint {run}{allow} IMAGE "what is in the picture ?"']


def own_modules(experiment: Experiment) -> list[str]:
    """Modules and packages of the user's own whose classes the model names. `ask` imports them on request alone."""
    return sorted(
        {name.partition(".")[0] for name in classes_in(experiment.model) if not name.startswith("lit_blip2.")}
    )


def starting_from(run: Path, files: Sequence[Path]) -> list[Path]:
    """Experiments beside a run's own whose `init_from` is the newest run of that experiment, the first few by name."""
    found = []
    for file in sorted(each for own in files for each in own.parent.glob("*.yaml")):
        try:
            start = read(file).model.get("init_from")
        except (DataError, OSError):  # no experiment
            continue
        if isinstance(start, str) and Path(start).name == run.parent.name:
            found.append(file)
    return found[:MOST]
