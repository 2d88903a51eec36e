"""A model of another project, read and sorted."""

from typing import Any, NamedTuple

from torch import Tensor


class ForeignModel(NamedTuple):
    """net: settings of our network that the model brings along, without paths. trained: our names -> weights, without
    `net.`. encoder: timm's names -> weights; none where the file has none. language: config and weights of the language
    model under its own names, where the file has them. fate: of each key what became of it. derived: of each of our
    names that the file does not hold, where its value is from. family: of language models that it was trained for, as
    its projection's name tells: opt, t5 or llm (any other decoder). random: the parts with random weights, in words.
    """

    net: dict[str, Any]
    trained: dict[str, Tensor]
    encoder: dict[str, Tensor] | None
    language: tuple[dict, dict[str, Tensor]] | None
    fate: dict[str, str]
    derived: dict[str, str]
    family: str | None = None
    random: tuple[str, ...] = ()
