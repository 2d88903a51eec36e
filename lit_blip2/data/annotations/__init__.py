"""Captions, questions and binding pairs, read from the files that people have."""
