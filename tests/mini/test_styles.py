"""Captions in other styles: what they say is what the plain ones say, in words that every model knows."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_blip2.mini.grammar import KINDS, UNSAID, Caption, Mention, draw_caption
from lit_blip2.mini.restyle import write_styles
from lit_blip2.mini.scores import Score, read_caption, score_caption
from lit_blip2.mini.styles import STYLES, Style, styled, without_boilerplate
from lit_blip2.mini.vocabulary import bert_tokenizer, opt_tokenizer, t5_tokenizer
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, SIZES, draw_scene
from lit_blip2.mini.write import write_world

RING = Mention(SHAPES.index("ring"), COLOURS.index("orange"), SIZES.index("large"), PLACES.index("top left"))
STAR = Mention(SHAPES.index("star"), COLOURS.index("red"), UNSAID, UNSAID)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        (Style(articles=True), "a large orange ring at top left and a red star"),
        (STYLES["no_articles"], "large orange ring at top left and red star"),
        (STYLES["noun_first"], "ring orange large at top left and star red"),
        (STYLES["names"], "an orange ring and a red star"),
    ],
)
def test_words_and_their_order(style, text):
    assert styled(Caption("", (RING, STAR), UNSAID), style, np.random.default_rng(0)) == text


def test_boilerplate_is_drawn_for_each_caption():
    one = Caption("", (STAR,), UNSAID)
    texts = {styled(one, STYLES["boilerplate"], np.random.default_rng(seed)) for seed in range(300)}
    assert len(texts) > 50 and all(without_boilerplate(text) == "red star" for text in texts)
    assert {"photo of red star , photo", "photo 2 of 3 , red star , the photo"} <= texts
    half = [styled(one, STYLES["some_boilerplate"], np.random.default_rng(seed)) for seed in range(400)]
    assert 0.4 < np.mean([text.startswith("red") for text in half]) < 0.6
    much = styled(one, STYLES["much_boilerplate"], np.random.default_rng(1))
    assert len(much.split()) >= 12 and without_boilerplate(much) == "red star"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_objects=st.integers(2, 4),
    kind=st.sampled_from(KINDS),
    name=st.sampled_from(sorted(STYLES)),
)
def test_a_caption_of_any_style_says_what_the_plain_one_says(seed, n_objects, kind, name):
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, n_objects)
    caption = draw_caption(scene, rng, kind)
    text = styled(caption, STYLES[name], rng)
    said = [m[:2] if name == "names" else m for m in caption.mentions]
    mentions, relation = read_caption(text, styled=True)
    assert [m[: len(one)] for m, one in zip(mentions, said, strict=True)] == said
    assert relation == (UNSAID if name == "names" else caption.relation)
    assert name != "names" or {m[2:] for m in mentions} == {(UNSAID, UNSAID)}
    assert score_caption(text, scene, styled=True) == Score(1.0, 1.0, 1.0)


def test_without_being_told_a_style_is_no_caption():
    assert read_caption("red star").mentions == (None,) != read_caption("red star", styled=True).mentions


@pytest.mark.parametrize("make", [opt_tokenizer, t5_tokenizer, bert_tokenizer])
def test_every_word_is_known(make):
    tokenizer, rng = make(), np.random.default_rng(0)
    for style in STYLES.values():
        for _ in range(200):
            text = styled(Caption("", (RING, STAR), 0), style, rng)
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text


def test_a_world_has_its_captions_in_several_styles(tmp_path):
    write_world(tmp_path / "w", train=4, val=3, test=2, seed=1, workers=1)
    write_styles(tmp_path / "w", ["boilerplate", "noun_first"])
    folder = tmp_path / "w/annotations"
    for file, entries in (
        ("captions_train", "annotations"),
        ("captions_val", "annotations"),
        ("binding_test", "pairs"),
    ):
        plain = json.loads((folder / f"{file}.json").read_text())
        for name in ("boilerplate", "noun_first"):
            other = json.loads((folder / f"{file}_{name}.json").read_text())
            assert other["images"] == plain["images"] and len(other[entries]) == len(plain[entries])
            for one, two in zip(plain[entries], other[entries], strict=True):
                assert one["caption"] != two["caption"] and one | {"caption": ""} == two | {"caption": ""}
                assert read_caption(one["caption"]) == read_caption(two["caption"], styled=True)
    before = (folder / "captions_train_boilerplate.json").read_bytes()
    (folder / "captions_train_boilerplate.json").unlink()
    write_styles(tmp_path / "w", ["boilerplate"])
    assert (folder / "captions_train_boilerplate.json").read_bytes() == before
    with pytest.raises(ValueError, match="captions have no style 'rhyme': boilerplate, some_boilerplate"):
        write_styles(tmp_path / "w", ["rhyme"])
