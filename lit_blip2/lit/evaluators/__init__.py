"""Evaluators: they collect what an evaluation finds batch by batch, and score it at the end."""
