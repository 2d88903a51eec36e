"""A report's plots: how they look, and each kind in a file."""
