"""The Q-Former against Hugging Face's on the same random weights, and the invariants of its masks."""

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from lit_blip2.model import masks
from lit_blip2.model.qformer import Pass, QFormer
from lit_blip2.model.text import PackedText

SIZES = dict(hidden=24, layers=3, heads=4, intermediate=40, dropout=0.0, vocab_size=50, num_queries=5)
LENGTHS = (4, 7, 1)


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    model = QFormer(vision_width=12, **SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def features_BND():
    return torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def text():
    generator = torch.Generator().manual_seed(2)
    return PackedText.from_lists([torch.randint(1, 50, (n,), generator=generator).tolist() for n in LENGTHS])


def to_hugging_face(qformer: QFormer) -> Blip2QFormerModel:
    """The same weights in transformers' class, key by key."""
    config = Blip2QFormerConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, encoder_hidden_size=12,
        cross_attention_frequency=2, use_qformer_text_input=True,
    )  # fmt: skip
    theirs = Blip2QFormerModel(config).eval()
    state = {"layernorm.weight": qformer.embedding_norm.weight, "layernorm.bias": qformer.embedding_norm.bias}

    def put(prefix, module):
        state[prefix + ".weight"], state[prefix + ".bias"] = module.weight, module.bias

    for i, layer in enumerate(qformer.layers):
        for name, weight, bias in zip(
            ("query", "key", "value"), layer.attention.qkv.weight.chunk(3), layer.attention.qkv.bias.chunk(3)
        ):
            state[f"encoder.layer.{i}.attention.attention.{name}.weight"] = weight
            state[f"encoder.layer.{i}.attention.attention.{name}.bias"] = bias
        put(f"encoder.layer.{i}.attention.output.dense", layer.attention.output)
        put(f"encoder.layer.{i}.attention.output.LayerNorm", layer.attention.norm)
        if layer.cross is not None:
            put(f"encoder.layer.{i}.crossattention.attention.query", layer.cross.query)
            for name, weight, bias in zip(
                ("key", "value"), layer.cross.kv.weight.chunk(2), layer.cross.kv.bias.chunk(2)
            ):
                state[f"encoder.layer.{i}.crossattention.attention.{name}.weight"] = weight
                state[f"encoder.layer.{i}.crossattention.attention.{name}.bias"] = bias
            put(f"encoder.layer.{i}.crossattention.output.dense", layer.cross.output)
            put(f"encoder.layer.{i}.crossattention.output.LayerNorm", layer.cross.norm)
        for mlp, suffix in ((layer.query_mlp, "_query"), (layer.text_mlp, "")):
            put(f"encoder.layer.{i}.intermediate{suffix}.dense", mlp.expand)
            put(f"encoder.layer.{i}.output{suffix}.dense", mlp.output)
            put(f"encoder.layer.{i}.output{suffix}.LayerNorm", mlp.norm)
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and not [key for key in missing if "position_ids" not in key]
    return theirs


def their_embeddings(qformer, text, with_queries):
    positions = torch.arange(text.max_length)
    embedded = qformer.word_embeddings(text.padded()) + qformer.position_embeddings(positions)
    queries = qformer.query_tokens.expand(len(text), -1, -1)
    return torch.cat([queries, embedded], dim=1) if with_queries else embedded


def test_query_pass_equals_hugging_face(qformer, features_BND):
    theirs = to_hugging_face(qformer)(
        query_embeds=qformer.query_tokens.expand(3, -1, -1),
        query_length=5,
        encoder_hidden_states=qformer.ln_vision(features_BND),
    ).last_hidden_state
    (ours,) = qformer([Pass(masks.UNIMODAL, image=qformer.project_image(features_BND))])
    torch.testing.assert_close(ours.query_RQD, theirs, atol=1e-5, rtol=1e-5)


def test_matching_pass_equals_hugging_face(qformer, features_BND, text):
    theirs = to_hugging_face(qformer)(
        query_embeds=their_embeddings(qformer, text, with_queries=True),
        query_length=5,
        attention_mask=torch.cat([torch.ones(3, 5), text.valid_BT.float()], dim=1),
        encoder_hidden_states=qformer.ln_vision(features_BND),
    ).last_hidden_state
    (ours,) = qformer([Pass(masks.BIDIRECTIONAL, image=qformer.project_image(features_BND), text=text)])
    torch.testing.assert_close(ours.query_RQD, theirs[:, :5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.text_LD, theirs[:, 5:][text.valid_BT], atol=1e-5, rtol=1e-5)


def test_text_pass_equals_hugging_face(qformer, text):
    theirs = to_hugging_face(qformer)(
        query_embeds=their_embeddings(qformer, text, with_queries=False),
        query_length=0,
        attention_mask=text.valid_BT.float(),
    ).last_hidden_state
    (ours,) = qformer([Pass(masks.UNIMODAL, text=text)])
    torch.testing.assert_close(ours.text_LD, theirs[text.valid_BT], atol=1e-5, rtol=1e-5)


def test_generation_pass_equals_hugging_face_under_its_causal_mask(qformer, features_BND, text):
    segments = [masks.Segment("query", 5), masks.Segment("text", text.max_length, text.valid_BT)]
    mask = masks.attention_mask(masks.MULTIMODAL_CAUSAL, segments, segments)
    theirs = to_hugging_face(qformer)(
        query_embeds=their_embeddings(qformer, text, with_queries=True),
        query_length=5,
        attention_mask=mask,
        encoder_hidden_states=qformer.ln_vision(features_BND),
    ).last_hidden_state
    image = qformer.project_image(features_BND)
    query, caption = qformer([Pass(masks.UNIMODAL, image=image), Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0)])
    torch.testing.assert_close(query.query_RQD, theirs[:, :5], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(caption.text_LD, theirs[:, 5:][text.valid_BT], atol=1e-5, rtol=1e-5)


def test_lockstep_equals_one_pass_at_a_time(qformer, features_BND, text):
    image = qformer.project_image(features_BND)
    passes = [
        Pass(masks.UNIMODAL, image=image),
        Pass(masks.UNIMODAL, text=text),
        Pass(masks.BIDIRECTIONAL, image=image, text=text),
    ]
    together = qformer(passes)
    for each, output in zip(passes, together):
        (alone,) = qformer([each])
        for ours, theirs in zip(output, alone):
            if ours is not None:
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_rows_that_are_not_read_change_nothing_else(qformer, features_BND, text):
    image = qformer.project_image(features_BND)
    whole = [
        Pass(masks.UNIMODAL, text=text),
        Pass(masks.BIDIRECTIONAL, image=image, text=text),
        Pass(masks.MULTIMODAL_CAUSAL, text=text),
    ]
    reads = ["first", "none", "all"]
    first, none, all_ = qformer([each._replace(read=read) for each, read in zip(whole, reads)])
    expected = qformer(whole)
    torch.testing.assert_close(first.text_LD, expected[0].text_LD[text.starts_B], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(none.query_RQD, expected[1].query_RQD, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(all_.text_LD, expected[2].text_LD, atol=1e-6, rtol=1e-6)
    assert none.text_LD is None


def test_no_future_token_changes_an_earlier_output(qformer, features_BND):
    image = qformer.project_image(features_BND)
    outputs = []
    for ids in ([[3, 4, 5, 6]] * 3, [[3, 4, 9, 6]] * 3):
        text = PackedText.from_lists(ids)
        passes = [Pass(masks.UNIMODAL, image=image), Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0)]
        outputs.append(qformer(passes)[1].text_LD.view(3, 4, -1))
    assert torch.equal(outputs[0][:, :2], outputs[1][:, :2])
    assert not torch.allclose(outputs[0][:, 2:], outputs[1][:, 2:])


def test_text_sees_queries_in_generation_but_not_in_contrast(qformer, features_BND, text):
    other = features_BND + 1.5 * torch.randn(features_BND.shape, generator=torch.Generator().manual_seed(5))
    results = []
    for features in (features_BND, other):
        image = qformer.project_image(features)
        passes = [
            Pass(masks.UNIMODAL, image=image),
            Pass(masks.UNIMODAL, text=text),
            Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0),
        ]
        results.append(qformer(passes))
    assert torch.equal(results[0][1].text_LD, results[1][1].text_LD)
    assert not torch.allclose(results[0][2].text_LD, results[1][2].text_LD, atol=1e-4)


def test_packed_and_padded_texts_agree(qformer, features_BND, text):
    rows = torch.tensor([2, 0, 1])
    packed, dense = text.select(rows), PackedText.from_padded(text.padded()[rows], text.lengths_B[rows])
    image = qformer.project_image(features_BND)
    ours, theirs = (qformer([Pass(masks.BIDIRECTIONAL, image=image, text=each)])[0] for each in (packed, dense))
    torch.testing.assert_close(ours.query_RQD, theirs.query_RQD, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.text_LD, theirs.text_LD[dense.valid_BT.flatten()], atol=1e-6, rtol=1e-6)


def test_selected_images_are_the_same_as_projecting_them(qformer, features_BND, text):
    rows = torch.tensor([1, 1, 0])
    selected = qformer.project_image(features_BND).select(rows)
    again = qformer.project_image(features_BND[rows])
    ours, theirs = (qformer([Pass(masks.BIDIRECTIONAL, image=each, text=text)])[0] for each in (selected, again))
    torch.testing.assert_close(ours.query_RQD, theirs.query_RQD, atol=1e-6, rtol=1e-6)


def test_sequences_that_look_at_an_image_together_see_what_each_sees(qformer, features_BND, text):
    """Two sequences for each of three images, in one pass and beside one that looks at them once."""
    image, rows = qformer.project_image(features_BND), torch.tensor([0, 0, 1, 1, 2, 2])
    texts = text.select(torch.tensor([2, 0, 1, 1, 0, 2]))
    results = [
        qformer([Pass(masks.BIDIRECTIONAL, image=each, text=texts), Pass(masks.UNIMODAL, image=image)])
        for each in (image.repeat(2), image.select(rows))
    ]
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours.query_RQD, theirs.query_RQD, atol=1e-6, rtol=1e-6)


def test_one_image_and_one_query():
    torch.manual_seed(0)
    model = QFormer(vision_width=12, **{**SIZES, "num_queries": 1}).eval()
    image = model.project_image(torch.randn(1, 6, 12))
    (output,) = model([Pass(masks.BIDIRECTIONAL, image=image, text=PackedText.from_lists([[2]]))])
    assert output.query_RQD.shape == (1, 1, 24) and output.text_LD.shape == (1, 24)


def test_query_feed_forward_starts_as_its_text_twin():
    model = QFormer(vision_width=12, **SIZES)
    for layer in model.layers:
        assert torch.equal(layer.query_mlp.expand.weight, layer.text_mlp.expand.weight)
        assert layer.query_mlp.expand.weight is not layer.text_mlp.expand.weight


def test_sizes_of_the_paper():
    """186,705,470 less the heads (ITC 393,729, ITM 1,538, ITG 622,651), counted in LAVIS; the paper rounds to 188M."""
    with torch.device("meta"):
        model = QFormer(vision_width=1408)
    assert sum(p.numel() for p in model.parameters()) == 186_705_470 - 393_729 - 1_538 - 622_651


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(num_queries=0), "num_queries=0"),
        (dict(hidden=25), "hidden=25 cannot be split into heads=4"),
        (dict(dropout=1.0), "dropout=1.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        QFormer(vision_width=12, **{**SIZES, **sizes})


def test_features_of_another_width_are_named(qformer):
    with pytest.raises(ValueError, match=r"13 wide.*vision_width=12"):
        qformer.project_image(torch.randn(1, 6, 13))


def test_text_for_a_qformer_without_text_half_is_refused(text):
    model = QFormer(vision_width=12, **{**SIZES, "vocab_size": None})
    with pytest.raises(ValueError, match="no text half"):
        model([Pass(masks.UNIMODAL, text=text)])
