"""The table of rows: worked by hand, and as one block mask over the whole matrix."""

import pytest
import torch
from torch.nn import functional as F

from lit_blip2.model import masks
from lit_blip2.model.passes import Pass, RowTable
from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText

TEXT = PackedText.from_lists([[7, 8], [9], [4, 5, 6]])
DENSE = PackedText.from_padded(TEXT.padded(), TEXT.lengths_B)
CPU = torch.device("cpu")


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    sizes = dict(hidden=24, layers=2, heads=4, intermediate=40, dropout=0.0, vocab_size=50, num_queries=2)
    return QFormer(vision_width=12, **sizes, init_std=0.3).eval()


@pytest.fixture
def image(qformer):
    return qformer.project_image(torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1)))


def passes_of(image, text):
    """Every kind of pass: queries, text, text that sees another pass' queries, both."""
    return [
        Pass(masks.UNIMODAL, image=image),
        Pass(masks.UNIMODAL, text=text, read="first"),
        Pass(masks.MULTIMODAL_CAUSAL, text=text, context=0),
        Pass(masks.BIDIRECTIONAL, image=image.select(torch.tensor([2, 2, 0])), text=text, read="none"),
    ]


def block_mask(table: RowTable, rows: int) -> torch.Tensor:
    """Which row may look at which, bool [M, M]."""
    allowed_MM = torch.zeros(rows, rows, dtype=torch.bool)
    for rows_RS, seen, mask in table.sequences:
        looking_RS1, looked_at_R1S = rows_RS[:, seen:, None], rows_RS[:, None]
        looking_RSS, looked_at_RSS = torch.broadcast_tensors(looking_RS1, looked_at_R1S)
        attends_RSS = (
            torch.ones_like(looking_RSS, dtype=torch.bool) if mask is None else mask[:, 0].expand_as(looking_RSS)
        )
        allowed_MM[looking_RSS[attends_RSS], looked_at_RSS[attends_RSS]] = True
    return allowed_MM


def test_rows_worked_by_hand(image):
    """Query rows of passes 0 and 3 are 0 to 5 and 6 to 11, texts' 12 to 17, 18 to 23 and 24 to 29."""
    queries, contrast, caption, match = RowTable(passes_of(image, TEXT), 2, CPU).sequences
    assert queries.rows_RS.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert contrast.rows_RS.tolist() == [[12, 13, 13], [14, 14, 14], [15, 16, 17]]
    assert caption.rows_RS.tolist() == [[0, 1, 18, 19, 19], [2, 3, 20, 20, 20], [4, 5, 21, 22, 23]]
    assert match.rows_RS.tolist() == [[6, 7, 24, 25, 25], [8, 9, 26, 26, 26], [10, 11, 27, 28, 29]]
    assert [queries.seen, contrast.seen, caption.seen, match.seen] == [0, 0, 2, 0]


def test_rows_that_the_last_layer_computes(image):
    """All queries, the first of each text of pass 1, all of pass 2, none of pass 3."""
    table = RowTable(passes_of(image, TEXT), 2, CPU)
    assert table.read_M.tolist() == [*range(12), 12, 14, 15, *range(18, 24)]
    assert RowTable(passes_of(image, TEXT)[:1], 2, CPU).read_M is None


@pytest.mark.parametrize("text", [TEXT, DENSE], ids=["packed", "dense"])
def test_sequences_and_back(image, text):
    table = RowTable(passes_of(image, text), 2, CPU)
    rows_MD = torch.randn(12 + 3 * len(text.ids_L), 4)
    looking = [each_RSD[:, each.seen :] for each, each_RSD in zip(table.sequences, table.to_sequences(rows_MD))]
    assert torch.equal(table.to_rows(looking, None), rows_MD)
    assert torch.equal(table.to_rows(looking, table.read_M), rows_MD[table.read_M])


@pytest.mark.parametrize("text", [TEXT, DENSE], ids=["packed", "dense"])
def test_the_table_is_one_block_mask_over_all_rows(qformer, image, text):
    """Self-attention of the whole matrix under it equals self-attention pass by pass."""
    table, attention = RowTable(passes_of(image, text), 2, CPU), qformer.layers[0].attention
    rows_MD = torch.randn(12 + 3 * len(text.ids_L), 24, generator=torch.Generator().manual_seed(3))
    query, key, value = (x.transpose(0, 1) for x in attention.qkv(rows_MD).unflatten(-1, (3, 4, -1)).unbind(1))
    seen_HME = F.scaled_dot_product_attention(query, key, value, block_mask(table, len(rows_MD)))
    expected_MD = attention.norm(rows_MD + attention.output(seen_HME.transpose(0, 1).flatten(1)))
    torch.testing.assert_close(attention(rows_MD, table), expected_MD, atol=1e-6, rtol=1e-6)


def test_passes_that_look_at_the_same_images_look_together(image):
    other = image.select(torch.tensor([0]))
    order = [image, image, other, image]
    table = RowTable([Pass(masks.UNIMODAL, image=each) for each in order], 2, CPU)
    assert [(image is each, *numbers) for each, *numbers in table.looks] == [(True, 2, 12), (False, 1, 2), (True, 1, 6)]


def test_a_pass_that_cannot_be_is_refused(image):
    with pytest.raises(ValueError, match="needs an image, a text or both"):
        RowTable([Pass(masks.UNIMODAL)], 2, CPU)
    with pytest.raises(ValueError, match="2 image rows and 3 texts"):
        RowTable([Pass(masks.BIDIRECTIONAL, image=image.select(torch.tensor([0, 1])), text=TEXT)], 2, CPU)
