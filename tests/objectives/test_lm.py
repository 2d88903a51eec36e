"""Stage 2's two ways to make targets of captions."""

from types import SimpleNamespace

import pytest
import torch

from lit_blip2.model.language import LanguageModel
from lit_blip2.objectives.lm import LM, PrefixLM
from tests.ranks import on_ranks


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


def mean_on(rank: int, of_ranks: bool) -> float:
    return LM(mean_of_ranks=of_ranks)(torch.tensor([[1.0, 2.0, 6.0], [5.0]][rank]))["loss"].item()


@pytest.mark.parametrize("objective", [LM, PrefixLM])
def test_the_mean_of_ranks_needs_no_other_rank(objective):
    assert objective(mean_of_ranks=True)(torch.tensor([1.0, 2.0, 6.0]))["loss"].item() == 3.0


@pytest.mark.run
@pytest.mark.parametrize("of_ranks, expected", [(False, 14 / 4), (True, (9 / 3 + 5) / 2)])
def test_tokens_of_all_ranks_or_the_ranks_means(tmp_path, of_ranks, expected):
    """What DDP averages: nine nats of three tokens on one rank, five of one on the other."""
    assert sum(on_ranks(2, tmp_path, mean_on, of_ranks)) / 2 == pytest.approx(expected)


def places(language: LanguageModel, prompt: str, captions: list[str], **kwargs) -> list[list[int]]:
    """Targets of each caption."""
    language.model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False, max_position_embeddings=None))
    language.load_tokenizer()
    text = LM(**kwargs).text(language, captions, [prompt] * len(captions), torch.zeros(len(captions)))
    row_L = text.place_L // (text.inputs.max_length + 1)
    return [text.target_L[row_L == row].tolist() for row in range(len(captions))]


def originals(language: LanguageModel, prompt: str, caption: str, longest: int) -> list[int]:
    """LAVIS' targets: begin token, prompt, caption and end in one, cut, and the prompt's length left out if there is
    a prompt."""
    tokenizer = language.tokenizer
    words = tokenizer.convert_tokens_to_ids(f"{prompt} {caption}".split())
    ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id][:longest]
    return ids[1 + len(prompt.split()) :] if prompt else ids


@pytest.mark.parametrize("prompt", ["", "a photo of"])
@pytest.mark.parametrize("longest", [5, 6, 30])
def test_targets_are_the_originals_by_name(prompt, longest):
    language = LanguageModel("lit_blip2/mini/weights/opt")
    captions = ["a red circle at top", "a blue square"]
    made = places(language, prompt, captions, learn_begin=True, max_text_tokens=longest)
    assert made == [originals(language, prompt, caption, longest) for caption in captions]


def test_a_cut_that_leaves_no_target_is_refused():
    language = LanguageModel("lit_blip2/mini/weights/opt")
    with pytest.raises(ValueError, match=r"max_text_tokens=4 leaves no target after the prompts \[0, 1\]"):
        places(language, "a photo of", ["a red circle", "a blue square"], max_text_tokens=4)


def test_a_begin_token_is_predicted_from_the_last_query():
    language = LanguageModel("lit_blip2/mini/weights/opt", dtype="float32")
    language.load()
    prefix_BPD = torch.randn(2, 3, language.width, generator=torch.Generator().manual_seed(0))
    text = LM(learn_begin=True).text(language, ["a red circle", "a square"], ["", ""], torch.zeros(2))
    losses_L, row_L = language.loss(prefix_BPD, text)
    for row, caption in enumerate(["a red circle", "a square"]):
        ids = torch.tensor([language.plain.begin + language.plain.ids([caption])[0] + language.end_mark()])
        embeds = torch.cat([prefix_BPD[row : row + 1], language.model.get_input_embeddings()(ids)], dim=1)
        labels = torch.cat([torch.full((1, 3), -100), ids], dim=1)
        expected = language.model(inputs_embeds=embeds, labels=labels).loss
        torch.testing.assert_close(losses_L[row_L == row].mean(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kwargs", [{"learn_begin": True}, {"max_text_tokens": 32}])
def test_what_is_for_a_decoder_is_refused_for_t5(kwargs):
    language = LanguageModel("lit_blip2/mini/weights/t5")
    language.load()
    with pytest.raises(ValueError, match="are for a decoder"):
        LM(**kwargs).text(language, ["a red circle"], [""], torch.zeros(1))
