"""Ablations: a grid of cells, each a run of the command line, and the report of what they show. Imports no model."""
