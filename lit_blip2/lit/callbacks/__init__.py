"""Callbacks: checkpoints, metrics files, printed metrics, pictures, EMA, and checks that end a run."""

from lit_blip2.lit.callbacks.agreement import Agreement
from lit_blip2.lit.callbacks.checkpoints import Checkpoints
from lit_blip2.lit.callbacks.companions import Companions
from lit_blip2.lit.callbacks.ema import EMA
from lit_blip2.lit.callbacks.hparams import HParams
from lit_blip2.lit.callbacks.metrics_file import MetricsFile
from lit_blip2.lit.callbacks.non_finite import NonFinite
from lit_blip2.lit.callbacks.pictures import Pictures
from lit_blip2.lit.callbacks.print_metrics import PrintMetrics
from lit_blip2.lit.callbacks.step_progress_bar import StepProgressBar

__all__ = [
    "EMA", "Agreement", "Checkpoints", "Companions", "HParams", "MetricsFile", "NonFinite", "Pictures", "PrintMetrics",
    "StepProgressBar",
]  # fmt: skip
