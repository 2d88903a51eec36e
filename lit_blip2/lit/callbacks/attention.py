"""Where each query looks: the last cross-attention layer's weights, as a map over the image's patches.

Legend: B images, Q query tokens, N image tokens, D Q-Former width, G patches along a side, W image width.
"""

import torch
from torch import Tensor

from lit_blip2.model import masks
from lit_blip2.model.patches import on_grid
from lit_blip2.model.qformer import Pass, QFormer


@torch.no_grad()
def query_maps(qformer: QFormer, features_BND: Tensor) -> Tensor:
    """Image features [B, N, W] to float [B, Q, G, G]: the share of a query's attention, mean over heads, that each
    patch gets. [CLS] and registers are left out, so a map sums to at most 1."""
    image = qformer.project_image(features_BND)
    last = [layer.cross for layer in qformer.layers if layer.cross is not None][-1]
    inputs: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        qformer([Pass(masks.UNIMODAL, image=image)])
    finally:
        hook.remove()
    query_BQD = inputs[0].view(len(image), qformer.num_queries, qformer.hidden)
    keys_BHNE, _ = image.layers[-1]
    return on_grid(last.attention_map(query_BQD, keys_BHNE, image.mask_QN).float())
