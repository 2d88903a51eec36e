"""Ablations: a grid of cells -> a queue -> runs of the ordinary commands -> a report. Imports nothing that trains."""
