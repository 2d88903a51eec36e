"""ITC on a batch worked by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from lit_blip2.evaluation.retrieval import similarity
from lit_blip2.objectives.itc import ITC, soft_targets

IMAGES = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, -1.0]]])  # two images of two queries
TEXTS = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


def identity_itc(**kwargs) -> ITC:
    itc = ITC(hidden=2, projection=2, **kwargs)
    with torch.no_grad():
        itc.image_projection.weight.copy_(torch.eye(2))
        itc.text_projection.weight.copy_(torch.eye(2))
    return itc


def test_similarity_takes_the_best_query():
    assert torch.allclose(similarity(IMAGES, TEXTS), torch.tensor([[1.0, 1.0], [0.8, 0.6]]))


def test_loss_by_hand():
    """Cosines [[1, 1], [.8, .6]] over temperature .5, one-hot targets."""
    loss = identity_itc(temperature=0.5, label_smoothing=0.0)(IMAGES, TEXTS, torch.tensor([1, 2]))["loss"]
    image_to_text = (math.log(2) + math.log(1 + math.exp(0.4))) / 2
    text_to_image = (math.log(1 + math.exp(-0.4)) + math.log(1 + math.exp(0.8))) / 2
    assert loss.item() == pytest.approx((image_to_text + text_to_image) / 2, abs=1e-6)


def test_targets_are_smoothed_one_hot_where_ids_differ():
    expected = torch.nn.functional.one_hot(torch.arange(4)).float() * 0.9 + 0.1 / 4
    assert torch.allclose(soft_targets(torch.arange(4), torch.arange(4), 0.1), expected)


def test_equal_ids_share_the_target():
    targets = soft_targets(torch.tensor([5, 5, 6]), torch.tensor([5, 5, 6]), 0.1)
    assert torch.allclose(targets[0], torch.tensor([0.45, 0.45, 0.0]) + 0.1 / 3)
    assert torch.allclose(targets.sum(1), torch.ones(3))


def test_all_ids_equal_and_a_batch_of_one_stay_finite():
    itc = identity_itc()
    assert torch.isfinite(itc(IMAGES, TEXTS, torch.tensor([3, 3]))["loss"])
    assert itc(IMAGES[:1], TEXTS[:1], torch.tensor([3]))["loss"].item() == pytest.approx(0.0, abs=1e-6)


def test_start_is_near_ln_of_the_batch():
    torch.manual_seed(0)
    itc = ITC(hidden=16, projection=256)
    common = torch.randn(16)
    loss = itc((common + 0.01 * torch.randn(64, 4, 16)), common + 0.01 * torch.randn(64, 16), torch.arange(64))["loss"]
    assert loss.item() == pytest.approx(math.log(64), abs=0.2)


def test_temperature_is_clamped_and_checked():
    itc = identity_itc(temperature=0.5, label_smoothing=0.0)
    expected = itc(IMAGES, TEXTS, torch.tensor([1, 2]))["loss"]
    with torch.no_grad():
        itc.temperature.fill_(9.0)
    loss = itc(IMAGES, TEXTS, torch.tensor([1, 2]))["loss"]
    assert torch.equal(loss, expected)
    loss.backward()
    assert itc.temperature.grad != 0, "a clamped temperature must find its way back"
    with pytest.raises(ValueError, match=r"temperature=0.7"):
        ITC(hidden=2, temperature=0.7)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0])
def test_smoothing_that_leaves_no_target_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing={label_smoothing}"):
        ITC(hidden=2, label_smoothing=label_smoothing)


def test_similarities_are_not_blurred_by_autocast():
    images, texts = torch.rand(3, 2, 8), torch.rand(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = similarity(images, texts)
    torch.testing.assert_close(kept, similarity(images, texts), rtol=0, atol=0)


def test_gathered_features_without_gradient_are_the_originals():
    """Its formula on one rank: each side is compared with features that have no gradient."""
    torch.manual_seed(0)
    itc = ITC(hidden=6, projection=4, gather_with_grad=False)
    queries, texts = torch.randn(5, 3, 6, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    whole = ITC(hidden=6, projection=4)
    whole.load_state_dict(itc.state_dict())
    made = itc(queries, texts, torch.arange(5))["loss"]
    images, words = itc.project_image(queries), itc.project_text(texts)
    to_text = torch.einsum("iqp,tp->itq", images, words.detach()).amax(-1) / itc.temperature
    to_image = torch.einsum("tp,iqp->tiq", words, images.detach()).amax(-1) / itc.temperature
    losses = [F.cross_entropy(each, torch.arange(5), label_smoothing=0.1) for each in (to_text, to_image)]
    expected = sum(losses) / 2
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(made, whole(queries, texts, torch.arange(5))["loss"])
    ours, theirs = (torch.autograd.grad(loss, [queries, texts], retain_graph=True) for loss in (made, expected))
    torch.testing.assert_close(ours, theirs)
    correct = torch.autograd.grad(whole(queries, texts, torch.arange(5))["loss"], [queries])[0]
    assert (correct - ours[0]).norm() > 0.1 * correct.norm()
