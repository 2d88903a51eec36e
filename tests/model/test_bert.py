"""The Q-Former's start from BERT, against transformers' own BERT with random weights."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from lit_blip2.model import masks
from lit_blip2.model.bert import load_bert
from lit_blip2.model.qformer import Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.itg import ITG

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=29)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES, max_position_embeddings=20, initializer_range=0.3)).eval()
    torch.nn.init.zeros_(model.bert.embeddings.token_type_embeddings.weight)  # the Q-Former has none
    torch.nn.init.normal_(model.cls.predictions.bias)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return model, str(folder)


def qformer(**changes) -> QFormer:
    sizes = dict(hidden=16, layers=2, heads=2, intermediate=24, vocab_size=30, max_positions=20, num_queries=3)
    return QFormer(12, **sizes | changes).eval()


def test_text_pass_and_word_head_are_berts(bert):
    model, folder = bert
    ours, head = qformer(), ITG(16, 30)
    load_bert(ours, head, folder)
    ids = [[2, 5, 28, 3], [2, 7, 3]]
    (output,) = ours([Pass(masks.UNIMODAL, text=PackedText.from_lists(ids))])
    logits = head.logits(output.text_LD, ours.word_embeddings.weight)[:, :29]
    theirs = torch.cat([model(torch.tensor([each])).logits[0] for each in ids])
    torch.testing.assert_close(logits, theirs, atol=1e-5, rtol=1e-5)


def test_query_feed_forward_starts_as_berts_even_without_text_half(bert):
    model, folder = bert
    ours = qformer(vocab_size=None)
    load_bert(ours, None, folder)
    expected = model.bert.encoder.layer[1].intermediate.dense.weight
    assert torch.equal(ours.layers[1].query_mlp.expand.weight, expected)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(hidden=8), "hidden 16, the Q-Former's is 8"),
        (dict(layers=1), "layers 2, the Q-Former's is 1"),
        (dict(layers=3), "layers 2, the Q-Former's is 3"),
        (dict(intermediate=32), "intermediate 24, the Q-Former's is 32"),
        (dict(max_positions=64), "max_positions 20, the Q-Former's is 64"),
        (dict(vocab_size=40), "29 words"),
        (dict(heads=4), "heads 2, the Q-Former's is 4"),
    ],
)
def test_other_sizes_are_named(bert, changes, message):
    with pytest.raises(ValueError, match=message):
        load_bert(qformer(**changes), None, bert[1])
