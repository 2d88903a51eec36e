"""Stage 1 with one of its savings taken away at a time, by other calls of the same public functions.

With nothing taken away, `losses` makes the numbers of Stage1.forward. Every saving leaves the numbers as they are.

Legend: B images, Q query tokens, T text positions, L text tokens, N image tokens, D Q-Former width, W image width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_blip2.model import masks
from lit_blip2.model.qformer import ImageKV, Output, Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.itm import draw_negatives
from lit_blip2.objectives.stage1 import Stage1

SHARED = "keys and values of an image made once"
PACKED = "linear layers on real tokens only"
LOCKSTEP = "passes in lockstep"
FOLDED = "ln_vision folded into the projection"
TARGETS = "logits at targets only"
READ = "unread text rows left out of the last layer"
FUSED = "fused AdamW"
SAVINGS = {
    SHARED: "each of the query pass and ITM's three pairings projects its images again",
    PACKED: "texts padded to the longest of the batch (not to 32), so linear layers see the padding",
    LOCKSTEP: "ITC's text by itself, ITM's pairings one after another; captions stay with the queries they see",
    FOLDED: "ln_vision applied first, so the projection's backward reaches the features",
    TARGETS: "captions padded to 32 before the head, logits at each position",
    READ: "the last layer computes all text rows, of which ITC reads one per text and ITM none",
    FUSED: "torch's default AdamW",
}


def losses(
    net: Stage1, features_BNW: Tensor, text: PackedText, ids_B: Tensor, uniform_B2: Tensor, without: str | None = None
) -> dict[str, Tensor]:
    """As Stage1.forward on one process, without the saving named."""
    if without is not None and without not in SAVINGS:
        raise ValueError(f"without={without!r} is no saving: choose from {list(SAVINGS)}")
    project = _project_after_norm if without == FOLDED else QFormer.project_image
    pack = _pad_to_longest if without == PACKED else lambda packed: packed
    run = _one_call_each if without == LOCKSTEP else _one_call
    image = project(net.qformer, features_BNW)

    caption = text.with_first_token(net.tokenizer.dec)
    with_queries = [Pass(masks.UNIMODAL, image=image), Pass(masks.MULTIMODAL_CAUSAL, text=pack(caption), context=0)]
    contrast = Pass(masks.UNIMODAL, text=pack(text), read="all" if without == READ else "first")
    query, written, contrasted = run(net.qformer, [with_queries, [contrast]])
    cls_BD = contrasted.text_LD if without != READ else contrasted.text_LD.index_select(0, text.starts_B)
    itc = net.itc(query.query_RQD, cls_BD, ids_B)

    other_texts_B, texts_ok_B = draw_negatives(itc["image_to_text_BN"], ids_B, ids_B, uniform_B2[:, 0])
    other_images_B, images_ok_B = draw_negatives(itc["text_to_image_BN"], ids_B, ids_B, uniform_B2[:, 1])
    images = [image, image, image.select(other_images_B)]
    if without == SHARED:
        images = [project(net.qformer, each) for each in (features_BNW, features_BNW, features_BNW[other_images_B])]
    texts = [pack(text), pack(text.select(other_texts_B)), pack(text)]
    read = "all" if without == READ else "none"
    pairs = [[Pass(masks.BIDIRECTIONAL, image=i, text=t, read=read)] for i, t in zip(images, texts)]
    query_RQD = torch.cat([output.query_RQD for output in run(net.qformer, pairs)])
    labels_R = torch.cat([torch.ones_like(ids_B), torch.zeros_like(ids_B).repeat(2)])
    itm = net.itm(query_RQD, labels_R, torch.cat([torch.ones_like(texts_ok_B), texts_ok_B, images_ok_B]))["loss"]

    written_LD = written.text_LD
    if without == PACKED:
        written_LD = written_LD.index_select(0, text.slot_L)
    itg = _loss_at_every_position if without == TARGETS else _loss_at_targets
    total = [itc["loss"], itm, itg(net, written_LD, text)]
    return dict(zip(("itc", "itm", "itg"), total)) | {"total": sum(total)}


def _one_call(qformer: QFormer, calls: list[list[Pass]]) -> list[Output]:
    return qformer([each for call in calls for each in call])


def _one_call_each(qformer: QFormer, calls: list[list[Pass]]) -> list[Output]:
    return [output for call in calls for output in qformer(call)]


def _pad_to_longest(text: PackedText) -> PackedText:
    return PackedText.from_padded(text.padded(), text.lengths_B)


def _project_after_norm(qformer: QFormer, features_BNW: Tensor) -> ImageKV:
    normed_BNW = qformer.ln_vision(features_BNW)
    layers = []
    for cross in (layer.cross for layer in qformer.layers if layer.cross is not None):
        kv_BNHE = cross.kv(normed_BNW).unflatten(-1, (2, cross.heads, -1)).unbind(2)
        layers.append((kv_BNHE[0].transpose(1, 2), kv_BNHE[1].transpose(1, 2)))
    return ImageKV(tuple(layers))


def _loss_at_targets(net: Stage1, written_LD: Tensor, text: PackedText) -> Tensor:
    places_L, targets_L = text.next_tokens()
    return net.itg(written_LD.index_select(0, places_L), targets_L, net.qformer.word_embeddings.weight)["loss"]


def _loss_at_every_position(net: Stage1, written_LD: Tensor, text: PackedText) -> Tensor:
    slots_L = text.row_L * net.max_text_tokens + text.position_L
    slots = len(text) * net.max_text_tokens
    hidden_SD = written_LD.new_zeros(slots, written_LD.shape[1]).index_copy(0, slots_L, written_LD)
    places_L, targets_L = text.next_tokens()
    labels_S = torch.full((slots,), -100).index_copy(0, slots_L[places_L], targets_L)
    logits_SV = net.itg.logits(hidden_SD, net.qformer.word_embeddings.weight)
    return F.cross_entropy(logits_SV, labels_S, ignore_index=-100, label_smoothing=net.itg.label_smoothing)
