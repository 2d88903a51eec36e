"""Annotations on disk -> rows -> batches. Knows nothing of models. Importing the package is light."""
