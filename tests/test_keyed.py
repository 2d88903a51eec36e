"""Random numbers by (seed, step, row)."""

import torch

from lit_blip2.keyed import row_uniforms


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
