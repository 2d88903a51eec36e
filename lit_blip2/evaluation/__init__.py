"""Metrics of predictions and references, as functions and as torchmetrics.Metrics. They need no model and no Lightning.
`from lit_blip2.evaluation import BindingAccuracy` (docs/metrics.md)."""

from importlib import import_module
from typing import Any

_FILES = {
    "BindingAccuracy": "metrics", "CaptionScores": "metrics", "POPE": "metrics", "RetrievalRecall": "recall",
    "VQAAccuracy": "metrics",
}  # fmt: skip
__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    """Import a metric on first use: torchmetrics takes seconds to import."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
