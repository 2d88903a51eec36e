"""Random numbers by (seed, step, row)."""

import pytest
import torch

from lit_blip2.data.coco import COCO
from lit_blip2.keyed import row_uniforms, seed_dropout, step_uniform


def test_they_depend_on_seed_step_and_global_row_alone():
    whole = row_uniforms(3, 10, torch.arange(8), 2)
    halves = torch.cat([row_uniforms(3, 10, torch.arange(4), 2), row_uniforms(3, 10, torch.arange(4, 8), 2)])
    assert torch.equal(whole, halves)
    assert not torch.equal(whole, row_uniforms(3, 11, torch.arange(8), 2))
    assert not torch.equal(whole, row_uniforms(4, 10, torch.arange(8), 2))


def test_a_number_does_not_depend_on_how_many_are_drawn():
    """An objective that is added leaves the draws of the others as they are."""
    many = row_uniforms(3, 10, torch.arange(8), 7)
    for count in range(7):
        assert torch.equal(row_uniforms(3, 10, torch.arange(8), count), many[:, :count])
    assert len(set(many.flatten().tolist())) == 56


def test_a_step_s_own_number_is_drawn_apart_from_its_rows():
    steps = [step_uniform(3, step) for step in range(50)]
    assert steps == [step_uniform(3, step) for step in range(50)] and len(set(steps)) == 50
    assert step_uniform(4, 0) != steps[0] and all(0 <= each < 1 for each in steps)
    assert steps[10] not in row_uniforms(3, 10, torch.arange(8), 7)
    with pytest.raises(ValueError, match=r"seed=-1 must lie in 0\.\."):
        step_uniform(-1, 0)


def test_large_seeds_are_all_different_and_those_that_would_meet_are_refused():
    seeds = [0, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    drawn = {row_uniforms(seed, 2**53 + step, torch.arange(1), 1).item() for seed in seeds for step in (0, 1)}
    assert len(drawn) == 2 * len(seeds)
    for seed in (-1, 2**64, 2**70):
        for draw in (lambda seed=seed: row_uniforms(seed, 0, torch.arange(1), 1), lambda seed=seed: COCO(seed=seed)):
            with pytest.raises(ValueError, match=rf"seed={seed} must lie in 0\.\.2\*\*64 - 1"):
                draw()
        with pytest.raises(ValueError, match=f"seed={seed}"):
            seed_dropout(seed, 0, 0, 0)
