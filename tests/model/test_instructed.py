"""A bridge that reads the prompt: what it makes of words, padding and order, and what it refuses."""

from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from lit_blip2.model import masks
from lit_blip2.model.instructed import InstructedBridge
from lit_blip2.model.qformer import Pass, QFormer

BERT = "lit_blip2/mini/weights/bert"
SIZES = dict(num_queries=3, hidden=8, layers=3, heads=2, intermediate=12, dropout=0.0, init_std=0.3)
PROMPTS = ["what shape is the red object ?", "a ring", "how many objects are there ?"]


def made(**arguments) -> InstructedBridge:
    torch.manual_seed(0)
    words = len(AutoTokenizer.from_pretrained(BERT))
    bridge = InstructedBridge(6, 10, partial(QFormer, **SIZES, vocab_size=words), BERT, **arguments)
    bridge.load()
    return bridge


@pytest.fixture
def features_BND():
    return torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))


def test_queries_and_words_see_one_another(features_BND):
    """The query outputs are those of a pass of which all is computed, last layer's words included."""
    bridge = made()
    prompts, whole = bridge.read(PROMPTS), made().qformer
    whole.layers[-1].text_mlp = torch.nn.Identity()
    image = whole.project_image(features_BND)
    (output,) = whole([Pass(masks.BIDIRECTIONAL, image=image, text=prompts)])
    expected_BQP = bridge.projection(output.query_RQD)
    torch.testing.assert_close(bridge(features_BND, prompts), expected_BQP, rtol=0, atol=1e-6)


def test_a_prompt_alone_gives_what_it_gives_in_a_batch_and_another_gives_something_else(features_BND):
    bridge = made()
    soft_BQP = bridge(features_BND, bridge.read(PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone_1QP = bridge(features_BND[row : row + 1], bridge.read([prompt]))
        torch.testing.assert_close(soft_BQP[row : row + 1], alone_1QP, rtol=0, atol=1e-6)
    other_BQP = bridge(features_BND, bridge.read(PROMPTS[::-1]))
    assert (soft_BQP - other_BQP).abs().amax(dim=(1, 2))[[0, 2]].min() > 1e-3


def test_several_prompts_about_an_image(features_BND):
    bridge, image_R = made(), torch.tensor([2, 0, 2])
    soft_RQP = bridge(features_BND, bridge.read(PROMPTS), image_R)
    torch.testing.assert_close(soft_RQP, bridge(features_BND[image_R], bridge.read(PROMPTS)), rtol=0, atol=1e-6)


def test_every_weight_gets_a_gradient(features_BND):
    """One without would stop training on several devices."""
    bridge = made()
    bridge(features_BND, bridge.read(PROMPTS)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bridge.parameters())


def test_a_long_prompt_loses_its_beginning():
    bridge = made(max_text_tokens=5)
    words = bridge.tokenizer.tokenizer.decode(bridge.read(["what shape is the red object"]).ids_L.tolist())
    assert words == "[CLS] the red object [SEP]"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="vocab_size=null leaves the Q-Former's text half out"):
        InstructedBridge(6, 10, partial(QFormer, **SIZES, vocab_size=None), BERT)
    with pytest.raises(ValueError, match="max_text_tokens=600: the Q-Former has max_positions=512"):
        InstructedBridge(6, 10, partial(QFormer, **SIZES, vocab_size=40), BERT, max_text_tokens=600)
    with pytest.raises(ValueError, match=r"texts \[1\] of this batch are empty"):
        made().read(["a ring", " "])
