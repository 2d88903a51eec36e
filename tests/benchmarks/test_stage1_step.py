"""The benchmark's sides compute the same numbers, and its measures measure, at tiny sizes."""

import json

import pytest
import torch

from benchmarks import measure, plain, savings, stage1_step


@pytest.fixture(params=["coco", "full"])
def batch(request):
    return stage1_step.make_batch(stage1_step.QUICK, request.param)


@pytest.fixture
def net():
    return stage1_step.build(stage1_step.QUICK)


def test_plain_side_has_our_losses_and_gradients(net, batch):
    loss_gap, gradient_gap = stage1_step.difference(net, plain.PlainStage1(net), batch)
    assert loss_gap < 1e-5 and gradient_gap < 1e-4


def test_a_difference_is_seen(net, batch):
    """One word's embedding off by a tenth: the check that guards the timing must notice."""
    other = plain.PlainStage1(net)
    with torch.no_grad():
        other.qformer.word_embeddings.weight[stage1_step.CLS] += 0.1
    loss_gap, gradient_gap = stage1_step.difference(net, other, batch)
    assert loss_gap > 1e-5 and gradient_gap > 1e-4


@pytest.mark.parametrize("without", [None, *savings.SAVINGS])
def test_every_saving_leaves_the_numbers_as_they_are(net, batch, without):
    expected, losses = net(*batch), savings.losses(net, *batch, without=without)
    expected_gradients = torch.autograd.grad(expected["total"], list(net.parameters()))
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])
    for ours, theirs in zip(torch.autograd.grad(losses["total"], list(net.parameters())), expected_gradients):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_an_unknown_saving_is_named(net, batch):
    with pytest.raises(ValueError, match="without='magic'"):
        savings.losses(net, *batch, without="magic")


def test_names_go_to_the_plain_side_and_back(net):
    state = dict(net.named_parameters())
    back = plain.from_plain(plain.to_plain(state), state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_texts_are_of_the_stated_lengths():
    size = stage1_step.Size(image_tokens=1)
    coco, full = (stage1_step.make_batch(size, lengths).text for lengths in ("coco", "full"))
    assert coco.lengths_B.tolist() == [9, 9, 10, 11, 12, 14, 16, 19]
    assert full.lengths_B.tolist() == [32] * 8
    assert all(ids[0] == stage1_step.CLS for ids in coco.padded()) and (coco.ids_L == stage1_step.SEP).sum() == 8


def test_ratio_is_taken_turn_by_turn():
    assert measure.ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (3.0, 2.0, 4.0)


def test_sides_take_turns():
    calls = []
    seconds = measure.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "baabbaab" and [len(each) for each in seconds.values()] == [2, 2]


def test_matrix_work_by_hand():
    assert measure.gflop(lambda: torch.randn(100, 50) @ torch.randn(50, 200)) == pytest.approx(2 * 100 * 50 * 200 / 1e9)


def test_quick_run_ends_with_its_figures(capsys):
    stage1_step.main(["--quick", "--repetitions", "1", "--no-memory"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["speedup"] > 0 and figures["speedup_full_text"] > 0
    assert set(figures["slower_without"]) == set(savings.SAVINGS)


@pytest.mark.run
@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(capsys):
    stage1_step.main(["--quick", "--repetitions", "1", "--texts", "coco", "--no-breakdown"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < figures["memory"] < 1 and 0 < figures["memory_peak"] < 1
