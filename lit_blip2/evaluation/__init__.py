"""Metrics: formulas of predictions and references, and torchmetrics made of them. Knows nothing of models or of
Lightning. `from lit_blip2.evaluation import BindingAccuracy` (docs/metrics.md)."""

from importlib import import_module
from typing import Any

_FILES = {
    "BindingAccuracy": "metrics", "CaptionScores": "metrics", "POPE": "metrics", "RetrievalRecall": "recall",
    "VQAAccuracy": "metrics",
}  # fmt: skip
__all__ = [*_FILES]


def __getattr__(name: str) -> Any:
    """A metric, when somebody asks for it: torchmetrics takes seconds to import, which commands need not wait for."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
