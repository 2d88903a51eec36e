"""How the language model interface puts prompts, targets and end marks together, on tiny OPTs and a tiny T5."""

import warnings

import pytest
import torch
from tokenizers import processors

from lit_blip2.mini.vocabulary import opt_tokenizer, t5_tokenizer
from lit_blip2.model.language import Example, LanguageModel
from lit_blip2.objectives.lm import PrefixLM

FOLDER = "lit_blip2/mini/weights/"
A, RED, STAR, RING = opt_tokenizer().convert_tokens_to_ids(["a", "red", "star", "ring"])
PAD, END, UNKNOWN = 0, 1, 2


@pytest.fixture(scope="module", params=["opt", "t5"])
def language(request):
    language = LanguageModel(FOLDER + request.param, dtype="float32")
    language.load()
    return language


@pytest.fixture
def changed(language, monkeypatch):
    """The same with another tokenizer, which `set` makes from the usual one."""

    def change(template=None, **special):
        tokenizer = t5_tokenizer() if language.encoder_decoder else opt_tokenizer()
        if template:
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                template, special_tokens=[("</s>", END), ("<pad>", PAD)]
            )
        for name, value in special.items():
            setattr(tokenizer, name, value)
        monkeypatch.setattr(language, "tokenizer", tokenizer)
        return language

    return change


def rows(text):
    """Ids of each row that a language model reads."""
    return [ids[valid].tolist() for ids, valid in zip(text.padded(), text.valid_BT)]


def test_a_tokenizer_that_ends_texts_ends_none_before_its_target(changed):
    language = changed("</s> $A <pad>")
    text = language.tokenise(["a", "a red"], ["star", "red ring"])
    if language.encoder_decoder:
        assert rows(text.inputs) == [[END, A, PAD], [END, A, RED, PAD]]
    else:
        assert rows(text.inputs) == [[END, A, STAR, END], [END, A, RED, RED, RING, END]]
    assert text.target_L.tolist() == [STAR, END, RED, RING, END]


def test_solved_examples_are_laid_out_as_texts_to_learn(changed):
    language = changed("</s> $A <pad>")
    ((ids,), _) = language._ids_before([""], [Example(None, ["a red"], ["star"])], None)
    assert ids == ([END, A, RED, STAR, PAD] if language.encoder_decoder else [END, A, RED, STAR, END])


def test_without_a_begin_token(changed):
    language = changed("$A")
    assert rows(language.tokenise(["a"], ["star"]).inputs)[0][:2] == ([A] if language.encoder_decoder else [A, STAR])
    with pytest.raises(ValueError, match="nothing to go on from: no image, an empty prompt, and the tokenizer"):
        language.generate(None, [""])


def test_without_an_end_token_the_way_out_is_named(changed, monkeypatch):
    language = changed(eos_token=None)
    for make in (lambda: language.tokenise(["a"], ["star"]), lambda: language.generate(None, ["a"])):
        with pytest.raises(ValueError, match=r"mini/weights.*has no end token.*set model.net.language.end"):
            make()
    monkeypatch.setattr(language, "end", "ring")
    assert language.tokenise(["a"], ["star"]).target_L.tolist() == [STAR, RING]
    assert language.generate(None, ["a"], max_new_tokens=2, num_beams=1)


def test_generation_ends_where_targets_do(language, monkeypatch):
    assert language.end_ids() == [END]
    for end in ("ring", " ring"):
        monkeypatch.setattr(language, "end", end)
        assert language.end_ids() == [RING] and language.tokenise(["a"], ["star"]).target_L.tolist() == [STAR, RING]
    monkeypatch.setattr(language, "end", "<pad>")
    assert language.end_ids() == [PAD]
    monkeypatch.setattr(language, "end", "\n")
    with pytest.raises(ValueError, match=r"end='\\n' is '' to language"):
        language.end_ids()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("end", ["star ring", ["star ring", "ring star"], ["star ring", "small"]])
def test_an_end_of_several_tokens_ends_generation_as_a_whole(language, monkeypatch, beams, end):
    """Its last token alone, here twice, does not; a row that ends is cut there, whatever comes until all have."""
    script, steps = [RING, RED, STAR, STAR, RING, A, RED, A, RED, A], []

    def say(_, inputs, logits):
        steps.append(len(steps))
        return torch.zeros_like(logits).index_fill(-1, torch.tensor([script[steps[-1]]]), 20.0)

    monkeypatch.setattr(language, "end", end)
    hook = language.model.get_output_embeddings().register_forward_hook(say)
    try:
        answers = language.generate(None, ["a", "a red"], max_new_tokens=10, num_beams=beams)
    finally:
        hook.remove()
    assert answers == ["ring red star"] * 2 and (beams > 1 or len(steps) == 5)
    if "small" in end:
        assert language.end_ids()[1:] == language.plain.mark("small")


def test_special_tokens_in_prompt_target_and_example_are_words(language):
    text = language.tokenise(["a </s> red"], ["star </s> <pad> ring"])
    assert text.target_L.tolist() == [STAR, UNKNOWN, UNKNOWN, RING, END]
    assert [each for each in rows(text.inputs)[0][1:-1] if each in (PAD, END)] == []
    ((ids,), _) = language._ids_before([""], [Example(None, ["</s>"], ["a </s> star"])], None)
    assert END not in ids[1:-1]
    text = PrefixLM().text(language, ["star </s> ring"], ["a"], torch.tensor([0.0]))
    assert text.target_L.tolist() == [UNKNOWN, RING, END]


def test_long_texts_are_cut_and_the_end_mark_stays(language):
    """The mini OPT has 256 positions, the mini T5 no last one."""
    with pytest.warns(UserWarning, match=r"a target of 3,000 tokens was cut to its first \d+ \(max_target_tokens\)"):
        text = language.tokenise(["a"], ["star " * 2999 + "red"])
    most = 256 if language.encoder_decoder else 128
    assert text.target_L.tolist() == [STAR] * most + [END]
    with pytest.warns(UserWarning, match=r"a prompt of 10,001 tokens was cut to its last \d+ \(max_prompt_tokens\)"):
        text = language.tokenise(["star " * 10_000 + "red", "a"], ["ring", "star"])
    prefix_BPD = torch.zeros(2, 8, language.width)
    assert language.loss(prefix_BPD, text)[0].isfinite().all()
    (long, _) = rows(text.inputs)
    assert RED in long[-3:] and len(long) == (512 + 1 if language.encoder_decoder else 256 - 64)


def test_a_long_target_takes_no_room_from_another_rows_prompt(language):
    """The loss of a row is the same in any company. A target of up to 128 leaves the mini OPT 64 for its own prompt."""
    asked, words = "star " * 100 + "red", ["ring", "star " * 3_000]
    drawn = torch.tensor([0.5, 0.5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone, both = (language.tokenise([asked] * len(each), each) for each in (words[:1], words))
        lone, pair = (
            PrefixLM().text(language, [f"a {each}" for each in some], [asked] * len(some), drawn[: len(some)])
            for some in (words[:1], words)
        )
    assert RED in rows(alone.inputs)[0][100:] and rows(both.inputs)[0] == rows(alone.inputs)[0]
    assert rows(pair.inputs)[0] == rows(lone.inputs)[0]


def test_a_long_question_is_answered_by_what_fits(language):
    language.plain.cuts.clear()
    question, prefix_BPD = "star " * 10_000 + "red", torch.zeros(1, 8, language.width)
    solved = Example(prefix_BPD, ["a red"], ["star"])
    with pytest.warns(UserWarning, match="a prompt of 10,001 tokens was cut to its last"):
        assert len(language.generate(prefix_BPD, [question], 4, 1, examples=[solved])) == 1


def test_long_solved_examples_are_cut_to_the_room_and_named(language):
    """Of each row alone: what stands beside it in a batch changes no answer. The mini OPT has 256 positions."""
    prefix_BPD, names = torch.randn(2, 8, language.width, generator=torch.Generator().manual_seed(0)), ["q 1", "q 2"]
    long = "star " * 3_000 + "red"
    examples = [
        Example(prefix_BPD, ["a red", long], ["star", "ring"], names),
        Example(prefix_BPD, ["a", long], ["ring", long], ["q 3", "q 4"]),
    ]
    prompts, found = ["a red ring", "star " * 30 + "red"], []
    language.plain.cuts.clear()
    with pytest.warns(
        UserWarning, match=r"a prompt of 3,00[12] tokens was cut to its last \d+ .* for q 2, begins 'star"
    ):
        together = language.generate(prefix_BPD, prompts, 4, 1, examples=examples)
    for row in range(2):
        own = [Example(prefix_BPD[row : row + 1], *(part[row : row + 1] for part in each[1:])) for each in examples]
        found += language.generate(prefix_BPD[row : row + 1], prompts[row : row + 1], 4, 1, examples=own)
    assert together == found


def test_solved_examples_fill_the_room_to_the_last_position(changed):
    language = changed("</s> $A")
    if language.encoder_decoder:
        return
    long, room = "star " * 300, language.positions - 3 * 8 - 3
    examples = [Example(None, [long, "a"], [long, "star"]), Example(None, ["a red", "a"], ["star"] * 2)]
    with pytest.warns(UserWarning, match="was cut to its"):
        one, two, own = language._ids_before([long, "a"], examples, room)
    assert two == [[END, A, RED, STAR, END], [END, A, STAR, END]] and one[1] == [END, A, STAR, END]
    assert len(one[0]) + len(two[0]) + len(own[0]) in (room - 2, room - 1, room) and own[1] == [END, A]
    assert one[0][-1] == END and len(own[0]) > 60
    short = language._ids_before(["a", "a"], [examples[1]] * 2, 16)
    assert short == [two, two, [[END, A]] * 2]


@pytest.mark.parametrize("name", ["max_prompt_tokens", "max_target_tokens"])
def test_limits_that_leave_nothing(name):
    with pytest.raises(ValueError, match=f"{name}=0.*at least 1"):
        LanguageModel(FOLDER + "opt", **{name: 0})
