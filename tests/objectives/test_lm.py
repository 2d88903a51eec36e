"""Stage 2's two ways to make targets of captions."""

from types import SimpleNamespace

import pytest
import torch

from lit_blip2.model.language import LanguageModel
from lit_blip2.objectives.lm import LM, PrefixLM


def language(end: str | None = None, encoder_decoder: bool = True):
    """A language model with OPT's tokenizer; `join` shows what it is given."""
    language = LanguageModel("lit_blip2/mini/weights/opt", end=end)
    language.load_tokenizer()
    config = SimpleNamespace(is_encoder_decoder=encoder_decoder, max_position_embeddings=None)
    language.model = SimpleNamespace(config=config)
    language.plain.begin, language.plain.close = [], [language.tokenizer.eos_token_id]
    language.join = lambda inputs, targets: (inputs, targets)
    return language


@pytest.mark.parametrize("end, mark", [(None, "</s>"), (" ,", ",")])
def test_a_suffix_ends_as_every_target_does(end, mark):
    stub = language(end)
    _, targets = PrefixLM().text(stub, ["a red circle at top"], [""], torch.tensor([0.0]))
    assert stub.tokenizer.convert_ids_to_tokens(targets[0]) == ["red", "circle", "at", "top", mark]


def test_prefix_and_suffix_are_the_caption():
    stub = language()
    caption = "a small red circle at top left"
    for u in (0.0, 0.5, 0.99):
        inputs, targets = PrefixLM().text(stub, [caption], [""], torch.tensor([u]))
        assert stub.tokenizer.decode(inputs[0][:-1] + targets[0][:-1]) == caption
        assert 1 <= len(inputs[0]) - 1 <= 3  # between the first word and the middle of seven


def test_loss_is_the_mean_over_tokens():
    assert LM()(torch.tensor([1.0, 2.0, 6.0]))["loss"].item() == 3.0
