"""Cached features: the frozen encoder's output on disk."""
