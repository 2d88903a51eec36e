"""Which queries attain ITC's maximum: if only a few ever do, the others are idle."""

import torch


def query_usage(winning_query: torch.Tensor, num_queries: int) -> tuple[torch.Tensor, float, float]:
    """(wins of each query, int64 [num_queries]; entropy of their shares in nats; the entropy over ln num_queries).

    winning_query: int64 of any shape, the argmax over queries of matched image-text pairs. The last number is 1 when
    all queries win equally often and 0 when one always wins (also with a single query). ValueError if it is empty.
    """
    if not winning_query.numel():
        raise ValueError("no winners to count")
    counts = torch.bincount(winning_query.flatten(), minlength=num_queries)
    if len(counts) > num_queries:
        raise ValueError(f"query {len(counts) - 1} won, but there are {num_queries} queries")
    entropy = torch.special.entr(counts.double() / counts.sum()).sum().item()
    highest = torch.tensor(float(num_queries)).log().item()
    return counts, entropy, entropy / highest if num_queries > 1 else 0.0
