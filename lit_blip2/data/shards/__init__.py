"""Tar shards, read by number through an index."""
