"""A stage-1 step in its plain formulation: what a careful reader of the paper writes first, and what the original does.

Every text is padded to the longest allowed, attention is softmax(q k^T) written out, each pass projects the image's
keys and values again (once for the queries, three times for matching), and logits are made at every position. One
thing is reused, as in the original: generation reads the self-attention keys and values of the query pass.

No dropout: the two sides of a comparison must compute the same numbers.

Legend: B images, R sequences of a pass, Q query tokens, T text positions (padded), N image tokens, S positions of a
sequence, C positions it looks at, D width, H heads, E head width, W image width, V vocabulary, P projection width.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.model.qformer import QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.objectives.itm import draw_negatives
from lit_blip2.objectives.stage1 import Stage1

HIDDEN_FROM_VIEW = -10000.0
NO_TARGET = -100
JOINED = {"qkv": ("query", "key", "value"), "kv": ("key", "value")}


class PlainAttention(nn.Module):
    """Attention of x over a source, with output projection, residual and norm."""

    def __init__(self, hidden: int, heads: int, source_width: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(source_width, hidden)
        self.value = nn.Linear(source_width, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def split_heads(self, x_RSD: Tensor) -> Tensor:
        """[R, S, D] to [R, H, S, E]."""
        return x_RSD.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        x_RSD: Tensor,
        source_RCW: Tensor,
        mask_R1SC: Tensor | None = None,
        past: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[R, S, D] to the same, and the keys and values [R, H, C, E]; `past` ones come before the source's own."""
        query_RHSE = self.split_heads(self.query(x_RSD))
        key_RHCE, value_RHCE = self.split_heads(self.key(source_RCW)), self.split_heads(self.value(source_RCW))
        if past is not None:
            key_RHCE = torch.cat([past[0], key_RHCE], dim=2)
            value_RHCE = torch.cat([past[1], value_RHCE], dim=2)
        scores_RHSC = query_RHSE @ key_RHCE.transpose(-1, -2) / query_RHSE.shape[-1] ** 0.5
        if mask_R1SC is not None:
            scores_RHSC = scores_RHSC + mask_R1SC
        context_RHSE = scores_RHSC.softmax(dim=-1) @ value_RHCE
        context_RSD = context_RHSE.transpose(1, 2).flatten(2)
        return self.norm(self.output(context_RSD) + x_RSD), (key_RHCE, value_RHCE)


class PlainFeedForward(nn.Module):
    """BERT's feed-forward with its residual and norm."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.expand = nn.Linear(hidden, intermediate)
        self.output = nn.Linear(intermediate, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, x_RSD: Tensor) -> Tensor:
        """[R, S, D] to the same."""
        return self.norm(self.output(F.gelu(self.expand(x_RSD))) + x_RSD)


class PlainLayer(nn.Module):
    """One block over [queries; text]; the first `queries` positions are query rows."""

    def __init__(self, hidden: int, heads: int, intermediate: int, vision_width: int | None):
        super().__init__()
        self.attention = PlainAttention(hidden, heads, hidden)
        self.cross = None if vision_width is None else PlainAttention(hidden, heads, vision_width)
        self.query_mlp = PlainFeedForward(hidden, intermediate)
        self.text_mlp = PlainFeedForward(hidden, intermediate)

    def forward(self, x_RSD, queries: int, image_RNW, mask_R1SC, past):
        """[R, S, D] to the same, and the self-attention's keys and values."""
        x_RSD, present = self.attention(x_RSD, x_RSD, mask_R1SC, past)
        if queries == 0:
            return self.text_mlp(x_RSD), present
        query_RQD = x_RSD[:, :queries]
        if self.cross is not None:
            query_RQD, _ = self.cross(query_RQD, image_RNW)
        query_RQD = self.query_mlp(query_RQD)
        if x_RSD.shape[1] == queries:
            return query_RQD, present
        return torch.cat([query_RQD, self.text_mlp(x_RSD[:, queries:])], dim=1), present


class PlainQFormer(nn.Module):
    """The Q-Former of the same sizes as `ours`; weights are named alike but for JOINED ones."""

    def __init__(self, ours: QFormer):
        super().__init__()
        self.num_queries = ours.num_queries
        self.query_tokens = nn.Parameter(torch.empty_like(ours.query_tokens))
        self.ln_vision = nn.LayerNorm(ours.vision_width, eps=1e-5)
        self.embedding_norm = nn.LayerNorm(ours.hidden, eps=1e-12)
        self.word_embeddings = nn.Embedding(*ours.word_embeddings.weight.shape)
        self.position_embeddings = nn.Embedding(*ours.position_embeddings.weight.shape)
        self.layers = nn.ModuleList(
            PlainLayer(
                ours.hidden,
                layer.attention.heads,
                layer.query_mlp.expand.out_features,
                None if layer.cross is None else ours.vision_width,
            )
            for layer in ours.layers
        )

    def forward(self, image_RNW=None, ids_RT=None, mask_R1SC=None, past=None):
        """A pass over queries (with an image), text, or both: hidden states [R, S, D], keys and values per layer."""
        parts, queries = [], 0
        if image_RNW is not None:
            queries = self.num_queries
            parts.append(self.query_tokens.expand(len(image_RNW), -1, -1))
        if ids_RT is not None:
            positions_T = torch.arange(ids_RT.shape[1])
            parts.append(self.word_embeddings(ids_RT) + self.position_embeddings(positions_T))
        x_RSD = self.embedding_norm(torch.cat(parts, dim=1))
        presents = []
        for index, layer in enumerate(self.layers):
            x_RSD, present = layer(x_RSD, queries, image_RNW, mask_R1SC, None if past is None else past[index])
            presents.append(present)
        return x_RSD, presents


class PlainStage1(nn.Module):
    """ITC, ITM and ITG of a Stage1, one plain pass after another, with a copy of its weights."""

    def __init__(self, ours: Stage1):
        super().__init__()
        self.dec, self.length = ours.tokenizer.dec, ours.max_text_tokens
        self.qformer = PlainQFormer(ours.qformer)
        self.itc, self.itm, self.itg = (copy.deepcopy(each) for each in (ours.itc, ours.itm, ours.itg))
        self.load_state_dict(to_plain(ours.state_dict()))

    def forward(
        self, features_BNW: Tensor, text: PackedText, image_ids_B: Tensor, uniform_B2: Tensor
    ) -> dict[str, Tensor]:
        """As Stage1.forward on one process: itc, itm, itg and total, scalars."""
        ids_BT, valid_BT = text.padded(self.length), F.pad(text.valid_BT, (0, self.length - text.max_length))
        image_BNW = self.qformer.ln_vision(features_BNW)
        query_BQD, past = self.qformer(image_BNW)
        itc, logits_BB = self.contrast(query_BQD, ids_BT, valid_BT, image_ids_B)
        itm = self.match(image_BNW, ids_BT, valid_BT, logits_BB, image_ids_B, uniform_B2)
        itg = self.generate(ids_BT, valid_BT, past)
        return {"itc": itc, "itm": itm, "itg": itg, "total": itc + itm + itg}

    def contrast(self, query_BQD: Tensor, ids_BT: Tensor, valid_BT: Tensor, image_ids_B: Tensor):
        """ITC's loss, and image-to-text similarities over temperature, [B, B]."""
        text_BTD, _ = self.qformer(ids_RT=ids_BT, mask_R1SC=additive(valid_BT[:, None, None]))
        image_BQP = F.normalize(self.itc.image_projection(query_BQD), dim=-1)
        text_BP = F.normalize(self.itc.text_projection(text_BTD[:, 0]), dim=-1)
        logits_BB = torch.einsum("iqp,tp->itq", image_BQP, text_BP).max(-1).values / self.itc.temperature
        matches_BB = (image_ids_B[:, None] == image_ids_B[None]).float()
        smoothing = self.itc.label_smoothing
        targets_BB = (1 - smoothing) * matches_BB / matches_BB.sum(1, keepdim=True) + smoothing / len(ids_BT)
        return (F.cross_entropy(logits_BB, targets_BB) + F.cross_entropy(logits_BB.T, targets_BB)) / 2, logits_BB

    def match(self, image_BNW, ids_BT, valid_BT, logits_BB, image_ids_B, uniform_B2) -> Tensor:
        """ITM's loss over (image, text), (image, other text), (other image, text), as one pass of 3 B rows."""
        texts_B, _ = draw_negatives(logits_BB, image_ids_B, image_ids_B, uniform_B2[:, 0])
        images_B, _ = draw_negatives(logits_BB.T, image_ids_B, image_ids_B, uniform_B2[:, 1])
        images_RNW = torch.cat([image_BNW, image_BNW, image_BNW[images_B]])
        ids_RT = torch.cat([ids_BT, ids_BT[texts_B], ids_BT])
        valid_RT = torch.cat([valid_BT, valid_BT[texts_B], valid_BT])
        seen_RS = F.pad(valid_RT, (self.qformer.num_queries, 0), value=True)
        hidden_RSD, _ = self.qformer(images_RNW, ids_RT, additive(seen_RS[:, None, None]))
        logits_R2 = self.itm.head(hidden_RSD[:, : self.qformer.num_queries]).mean(dim=1)
        labels_R = torch.cat([torch.ones_like(image_ids_B), torch.zeros_like(image_ids_B).repeat(2)])
        return F.cross_entropy(logits_R2, labels_R)

    def generate(self, ids_BT: Tensor, valid_BT: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """ITG's loss: [CLS] becomes [DEC], each position predicts the next token."""
        labels_BT = ids_BT.masked_fill(~valid_BT, NO_TARGET)
        ids_BT = torch.cat([torch.full_like(ids_BT[:, :1], self.dec), ids_BT[:, 1:]], dim=1)
        causal_BTT = torch.ones(self.length, self.length, dtype=torch.bool).tril() & valid_BT[:, None]
        seen_BTS = F.pad(causal_BTT, (self.qformer.num_queries, 0), value=True)
        hidden_BTD, _ = self.qformer(ids_RT=ids_BT, mask_R1SC=additive(seen_BTS[:, None]), past=past)
        normed_BTD = self.itg.norm(F.gelu(self.itg.transform(hidden_BTD)))
        logits_BTV = F.linear(normed_BTD, self.qformer.word_embeddings.weight, self.itg.bias)
        return F.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1),
            labels_BT[:, 1:].flatten(),
            ignore_index=NO_TARGET,
            label_smoothing=self.itg.label_smoothing,
        )


def additive(seen: Tensor) -> Tensor:
    """Bool mask, True = attends, to what is added to the scores."""
    return (~seen).float() * HIDDEN_FROM_VIEW


def plain_names(name: str) -> list[str]:
    """Names on the plain side of one tensor of a Stage1; several where the Stage1 has them joined."""
    for joined, parts in JOINED.items():
        if f".{joined}." in name:
            return [name.replace(f".{joined}.", f".{part}.") for part in parts]
    return [name]


def to_plain(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Named tensors of a Stage1 under the plain side's names, joined ones split."""
    plain = {}
    for name, tensor in ours.items():
        names = plain_names(name)
        plain.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]))
    return plain


def from_plain(plain: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Named tensors of the plain side under the Stage1's `names`, split ones joined."""
    parts = {name: [plain[each] for each in plain_names(name)] for name in names}
    return {name: torch.cat(each) if len(each) > 1 else each[0] for name, each in parts.items()}
