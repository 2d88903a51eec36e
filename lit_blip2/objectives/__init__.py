"""The objectives, each a part that YAML can drop, weigh or replace, and the two stages that feed them, apart or at
once."""
