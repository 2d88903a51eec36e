"""What the frozen image encoder is trained in: contrast and captioning on one text encoder (CoCa, Yu 2022).

Legend: B images, T texts, L words, P patches (and the class token), M words of all texts, W width, D width of the
common space, V vocabulary, C = 3 channels, H = 64 pixels a side.
"""

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import nn
from torch.nn import functional as F


class CoCa(nn.Module):
    """A ViT, a text encoder that sees the words before, and a captioner on both. Only `vit` is kept.

    Args:
        vit: timm's; its position embeddings are made anew.
        vocabulary: words.
        common: width in which patches and words meet.
        longest: words of the longest caption, [CLS] and [SEP] included.
    """

    def __init__(self, vit: nn.Module, vocabulary: int, common: int = 64, longest: int = 40) -> None:
        super().__init__()
        width = vit.embed_dim
        shape = dict(nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu")
        shape |= dict(batch_first=True, norm_first=True)
        encoder, decoder = nn.TransformerEncoderLayer(width, **shape), nn.TransformerDecoderLayer(width, **shape)
        self.vit = vit
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, width))
        self.texts = nn.TransformerEncoder(encoder, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.captioner = nn.TransformerDecoder(decoder, 2, nn.LayerNorm(width))
        self.image_head = nn.Linear(width, common, bias=False)
        self.text_head = nn.Linear(width, common, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.words.weight, std=0.02)
        # timm's start, 0.02, is lost beside patches of 0.5: places would have to be learned from almost nothing.
        vit.pos_embed.data[0, 1:] = build_sincos2d_pos_embed(list(vit.patch_embed.grid_size), width, temperature=20.0)

    def encode_texts(self, tokens_TL: torch.Tensor) -> torch.Tensor:
        """[T, L, W]: each word knows itself and those before it."""
        x_TLW = self.words(tokens_TL) + self.positions[: tokens_TL.shape[1]]
        return self.texts(x_TLW, mask=_causal(tokens_TL), is_causal=True)

    def similarity(self, patches_BPW: torch.Tensor, texts_TLW: torch.Tensor, pad_TL: torch.Tensor) -> torch.Tensor:
        """[T, B]: the mean over a text's words of the best patch's cosine (late interaction, FILIP, Yao 2021).

        One vector a side learns slowly what goes with what; here every word has to find its place.
        """
        i_BPD = F.normalize(self.image_head(patches_BPW), dim=-1)
        w_MD = F.normalize(self.text_head(texts_TLW[~pad_TL]), dim=-1)
        best_MB = (w_MD @ i_BPD.flatten(0, 1).T).view(-1, *i_BPD.shape[:2]).amax(-1)
        sum_TB = best_MB.new_zeros(len(pad_TL), len(i_BPD)).index_add(0, torch.nonzero(~pad_TL)[:, 0], best_MB)
        return sum_TB / (~pad_TL).sum(1, keepdim=True)

    def losses(
        self, x_BCHH: torch.Tensor, tokens_BL: torch.Tensor, pad_BL: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Contrastive loss both ways, and the captioner's (both nats) of images and their captions."""
        patches_BPW, texts_BLW = self.vit.forward_features(x_BCHH), self.encode_texts(tokens_BL)
        logits_BB = self.similarity(patches_BPW, texts_BLW, pad_BL) * self.log_scale.exp().clamp(max=100)
        own_B = torch.arange(len(logits_BB))
        contrast = (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
        read_BLW = self.captioner(texts_BLW, patches_BPW, tgt_mask=_causal(tokens_BL), tgt_is_causal=True)
        ahead_BL = ~pad_BL[:, 1:]
        logits_MV = read_BLW[:, :-1][ahead_BL] @ self.words.weight.T
        return contrast, F.cross_entropy(logits_MV, tokens_BL[:, 1:][ahead_BL])


def _causal(tokens_TL: torch.Tensor) -> torch.Tensor:
    return nn.Transformer.generate_square_subsequent_mask(tokens_TL.shape[1])
