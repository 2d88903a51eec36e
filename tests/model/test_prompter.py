"""From texts to soft prompts: padding is not read, and folders are checked.

Legend: B texts, Q soft prompt positions, D language model width.
"""

import json

import pytest
import torch

from lit_blip2.contents import DataError
from lit_blip2.model.prompter import Prompter, read_prompter, save_prompter
from lit_blip2.model.text import PackedText

TEXTS = [[3, 7, 5], [4], [9, 8, 7, 6, 5]]


@pytest.fixture
def prompter():
    torch.manual_seed(0)
    return Prompter(12, 6, num_tokens=4, hidden=8, layers=2, heads=2, longest=5).eval()


def test_a_text_has_the_same_prompt_alone_and_among_longer_ones(prompter):
    prompt_BQD = prompter(PackedText.from_lists(TEXTS))
    assert prompt_BQD.shape == (3, 4, 6)
    for row, ids in enumerate(TEXTS):
        torch.testing.assert_close(prompter(PackedText.from_lists([ids]))[0], prompt_BQD[row], atol=1e-6, rtol=1e-5)


def test_every_word_is_read_and_its_place(prompter):
    one, other, turned = (prompter(PackedText.from_lists([ids])) for ids in ([3, 7, 5], [3, 7, 6], [7, 3, 5]))
    assert not torch.allclose(one, other) and not torch.allclose(one, turned)


def test_a_text_that_is_too_long_is_refused(prompter):
    with pytest.raises(ValueError, match="a text of 6 tokens: this prompter reads at most longest=5"):
        prompter(PackedText.from_lists([[1] * 6]))


def test_a_folder_gives_the_same_prompter(prompter, tmp_path):
    save_prompter(prompter, tmp_path, {"signs": "abc"})
    found, language = read_prompter(tmp_path)
    text = PackedText.from_lists(TEXTS)
    assert language == {"signs": "abc"} and torch.equal(found.eval()(text), prompter(text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "config.json has no heads as a prompter's has"),
        ({"heads": "2"}, "config.json has no heads"),
        ({"language": None}, "config.json has no language"),
        ({"hidden": 16}, "model.safetensors is damaged or cut, or no weights of a prompter"),
    ],
)
def test_what_is_no_prompter_is_refused(prompter, tmp_path, change, message):
    save_prompter(prompter, tmp_path, {"signs": "abc"})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_prompter(tmp_path)
