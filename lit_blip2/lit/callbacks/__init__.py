"""What runs leave behind beside their checkpoint."""

from lit_blip2.lit.callbacks.checkpoints import Checkpoints
from lit_blip2.lit.callbacks.ema import EMA
from lit_blip2.lit.callbacks.hparams import HParams
from lit_blip2.lit.callbacks.metrics_file import MetricsFile
from lit_blip2.lit.callbacks.non_finite import NonFinite
from lit_blip2.lit.callbacks.pictures import Pictures

__all__ = ["EMA", "Checkpoints", "HParams", "MetricsFile", "NonFinite", "Pictures"]
