"""Reads an experiment's YAML. Only this module knows where its parts are.

An experiment nests classes. Each is `{class_path: NAME, init_args: {...}}`, or its arguments alone if only one class
can be meant. Readers ask for a part by name and get its arguments, in whichever form they are written:

    model                   arguments of a LightningModule: init_from, bert, how answers are made
      net                   of its network: Stage1, Stage2 or Joint
        vision              of the image encoder
        qformer             of the Q-Former, which is the bridge's in stage 2
        language, bridge    of the language model, and of what stage 2 puts in front of it
      optimization          of the optimiser and its schedule
    data                    of a data module: root, image_size, batch_size, seed
    trainer                 of Lightning's Trainer

Nothing is imported or built here: network.py does, from model.class_path.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_blip2.contents import DataError, parsed_yaml, read_text

STARTS = ("init_from", "bert", "text_from")  # arguments of a model: the files that training starts from
MAX_UNKNOWN_WORDS = 0.5  # data.max_unknown_words, also of checkpoints that are older than it


@dataclass(frozen=True)
class Experiment:
    """An experiment. settings: all of the YAML. source: where it was read, for errors. allow: names that its classes
    may have besides this package's own, see trust.py; None: any, because it is the user's own.

    A part is the dict inside `settings` itself, so changing it changes `settings`. A missing part is an empty dict.
    """

    settings: dict[str, Any]
    source: str
    allow: Sequence[str] | None = ()

    @property
    def model(self) -> dict[str, Any]:
        return arguments_of(self.settings, "model")

    @property
    def net(self) -> dict[str, Any]:
        return arguments_of(self.model, "net")

    @property
    def vision(self) -> dict[str, Any]:
        return arguments_of(self.net, "vision")

    @property
    def qformer(self) -> dict[str, Any]:
        return arguments_of(self.net, "qformer") or arguments_of(self.net, "bridge", "qformer")

    @property
    def language(self) -> dict[str, Any]:
        return arguments_of(self.net, "language")

    @property
    def optimization(self) -> dict[str, Any]:
        return arguments_of(self.model, "optimization")

    @property
    def data(self) -> dict[str, Any]:
        return arguments_of(self.settings, "data")

    @property
    def trainer(self) -> dict[str, Any]:
        return arguments_of(self.settings, "trainer")


def read(file: Path) -> Experiment:
    """The experiment in a YAML file of the user's own. Raises OSError, and DataError for a file that is not YAML or
    holds no settings."""
    found = replace(from_text(read_text(file), str(file)), allow=None)
    if not found.settings:
        raise DataError(f"{file} holds no settings, such as model: and data: have: see experiments/ for some that do")
    return found


def from_text(text: str | None, source: str) -> Experiment:
    """The experiment in a text of YAML, such as a checkpoint carries; empty if the text holds no mapping.

    Raises DataError for a text that is not YAML.
    """
    if not isinstance(text, str | None):
        raise DataError(f"{source} holds a {type(text).__name__} in the place of its configuration, a text of YAML")
    settings = parsed_yaml(text or "", source)
    return Experiment(settings if isinstance(settings, dict) else {}, source)


def check_encoder(files: Sequence[Experiment], vision: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Raises ValueError if an image encoder gets the `model_args` of another one, because only `name` was changed.

    Args: files: of an experiment, in order. vision: the resulting settings of the encoder. arguments: the command line.
    """
    name = made_for = args = None
    for file in files:
        name = file.vision.get("name", name)
        if "model_args" in file.vision:
            made_for, args = name, file.vision["model_args"]
    told = any("vision" in each and "model_args" in each for each in arguments)
    if args and not told and vision.get("name") != made_for and vision.get("model_args") == args:
        raise ValueError(
            f"model.net.vision.name={vision.get('name')} would be built with model_args={args}, which stand in the "
            f"experiment for {made_for}: add --model.net.vision.model_args=null for its own sizes, or those that it has"
        )


def arguments_of(settings: Any, *path: str) -> dict[str, Any]:
    """The arguments of the class at a path inside another class, such as net, vision in a model. Returns the dict
    inside `settings` itself, or an empty one if there is none."""
    for name in path:
        settings = arguments_of(settings).get(name)
    if not isinstance(settings, dict):
        return {}
    own = settings.get("init_args") if settings.keys() & {"class_path", "init_args"} else settings
    return own if isinstance(own, dict) else {}


def foreign_arguments(settings: Any, place: str = "") -> dict[str, Any]:
    """place -> argument, for the classes in `settings` that are not of this package: no list in this package can know
    what such a class does with them. Paths are cut to their last names."""
    if isinstance(settings, list):
        settings = dict(enumerate(settings))
    if not isinstance(settings, dict):
        return {}
    found = {}
    if (name := class_path(settings)) and not name.startswith("lit_blip2."):
        found = {f"{place}{key}": unplaced(value) for key, value in arguments_of(settings).items()}
    inner = arguments_of(settings) or settings
    return found | {k: v for key, each in inner.items() for k, v in foreign_arguments(each, f"{place}{key}.").items()}


def classes_in(settings: Any) -> set[str]:
    """Every class_path in nested dicts and lists."""
    below = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    return {class_path(settings)}.union(*map(classes_in, below)) - {""}


def strings(settings: Any) -> set[str]:
    """Every string among the values of nested dicts and lists."""
    if isinstance(settings, dict):
        return set().union(*map(strings, settings.values()))
    if isinstance(settings, list):
        return set().union(*map(strings, settings))
    return {settings} if isinstance(settings, str) else set()


def unplaced(settings: Any, left_out: Collection[str] = ()) -> Any:
    """Settings with paths cut to their last names, because files may have moved, and without some keys."""
    if isinstance(settings, dict):
        return {key: unplaced(value, left_out) for key, value in settings.items() if key not in left_out}
    if isinstance(settings, list):
        return [unplaced(value, left_out) for value in settings]
    return Path(settings).name if isinstance(settings, str) and settings else settings


def flat(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """Nested settings as dotted place -> value, without `init_args` in the places."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        below = place if key == "init_args" else f"{place}.{key}"
        found |= flat(value, below) if isinstance(value, dict) and value else {below: value}
    return found


def class_path(settings: Any) -> str:
    """The name of the class in `settings`; empty if they name none."""
    name = settings.get("class_path") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else ""
