"""The LightningModules of the stages, and their optimiser, checkpoints and callbacks."""

from lit_blip2.lit.aligned import AlignedStage2
from lit_blip2.lit.joint import LitJoint
from lit_blip2.lit.stage1 import LitStage1
from lit_blip2.lit.stage2 import LitStage2

__all__ = ["AlignedStage2", "LitJoint", "LitStage1", "LitStage2"]
