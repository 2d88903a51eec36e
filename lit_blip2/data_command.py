"""`python -m lit_blip2 data ...`: what is done once with data on disk, before any run."""

import sys

from lit_blip2.data.indexing import index_shards
from lit_blip2.mini.command import keep_features, make_mini, make_models

COMMANDS = {
    "make-mini": make_mini,
    "make-models": make_models,
    "features": keep_features,
    "index": index_shards,
}


def main(arguments: list[str]) -> int:
    """Parse and run; 0, or 2 for what cannot be done, with the reason."""
    from jsonargparse import auto_cli

    try:
        auto_cli(COMMANDS, args=arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
