"""A scale: the size at which an ablation is run. One YAML file in ablations/scales:

    like: small                                     # another scale, which gives what is not said here
    seeds: [0, 1, 2]
    gives:                                          # what `scale.NAME` stands for in an ablation's steps and axes
      stage1: experiments/vitg_stage1.yaml
      t5: {stage2.fit: experiments/vitg_flant5xl.yaml}
    prepare:                                        # name -> commands that make it, for ablations that use the name
      stage1: [data make-mini --out data/mini]
    set: {stage1.trainer.max_steps: 80}             # over the experiments' settings, in ablations that have the step
    lacks:                                          # a name, a metric or a pattern of metrics, or an ablation: why
      joint: no recipe for both stages in one pass is known at this size
      binding/*: only the mini-world has pairs of captions with their colours swapped

What a scale lacks is left out: a metric, or a label that uses a lacking name. An ablation whose steps or control use
one, or that has nothing left to compare, cannot be run at this scale.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr

from lit_blip2.ablation.spec.parsing import complain, parsed, read_mapping
from lit_blip2.ablation.spec.values import Command, Settings

SCALES = Path("ablations/scales")


class Scale(BaseModel):
    """What a scale's file says; see above."""

    model_config = ConfigDict(extra="forbid")
    like: StrictStr | None = None
    seeds: list[StrictInt] = []
    gives: dict[StrictStr, Any] = {}
    prepare: dict[StrictStr, list[Command]] = {}
    set: Settings = {}
    lacks: dict[StrictStr, StrictStr] = {}

    def over(self, other: "Scale") -> "Scale":
        """This scale; what it does not say is taken from another."""
        return Scale(
            seeds=self.seeds or other.seeds,
            gives={name: each for name, each in other.gives.items() if name not in self.lacks} | self.gives,
            prepare=other.prepare | self.prepare,
            set=other.set | self.set,
            lacks={name: why for name, why in other.lacks.items() if name not in self.gives} | self.lacks,
        )


def read_scale(name: str) -> Scale:
    """Read and check ablations/scales/NAME.yaml. Raises FileNotFoundError, or ValueError with all that is wrong."""
    scale = _read(name)
    if scale.like is None:
        return scale
    other = _read(scale.like)
    if other.like is not None:
        raise ValueError(f"{SCALES}/{name}.yaml is like {scale.like}, which is like {other.like}: name that one")
    return scale.over(other)


def _read(name: str) -> Scale:
    path = SCALES / f"{name}.yaml"
    raw, problems = read_mapping(path, SCALES / "small.yaml", Scale.model_fields)
    scale, more = parsed(Scale, raw)
    both = sorted(scale.gives.keys() & scale.lacks.keys()) if scale else []
    complain(path, problems + more + [f"{name}: both given and lacking" for name in both])
    return scale


def scales() -> list[str]:
    """The names of all scales."""
    return sorted(file.stem for file in SCALES.glob("*.yaml"))
