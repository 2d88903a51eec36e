"""Small questions about an ablation's names and values."""

from typing import Any


def smaller_is_better(metric: str) -> bool:
    """Losses and perplexities; of every other metric more is better."""
    return metric.startswith("loss/") or metric.endswith(("_loss", "perplexity"))


def strings(config: Any) -> set[str]:
    """Every string among the values of nested dicts and lists."""
    if isinstance(config, dict):
        return set().union(*map(strings, config.values()))
    if isinstance(config, list):
        return set().union(*map(strings, config))
    return {config} if isinstance(config, str) else set()
