"""Metrics: pure functions of predictions and references. Knows nothing of models or of Lightning."""
