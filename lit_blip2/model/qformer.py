"""The Q-Former: BERT's text half and a query half that looks at an image, with shared self-attention (paper, 3.1).

Layout. A forward takes several passes (sequences of [queries; text] under one rule of `masks`) in lockstep: all their
real tokens lie in one matrix, query rows first, so each linear layer runs once for all passes and never on padding.
Only attention works per pass. The image comes as keys and values, projected once and shared by every pass.

Legend: B images, P passes, R sequences of a pass, Q query tokens, T padded text positions, L real text tokens,
N image tokens, S positions of a sequence (Q + T), M rows of the one matrix, D width, H heads, E head width,
W image width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2 import masks
from lit_blip2.model.text import PackedText


@dataclass(frozen=True)
class ImageKV:
    """An image's keys and values for each cross-attention layer, [B, H, N, E] each.

    rows_R: which image each sequence looks at (None: one after the other, with no copy).
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    rows_R: Tensor | None = None

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.layers[0][0] if self.rows_R is None else self.rows_R)

    def select(self, rows_R: Tensor) -> "ImageKV":
        """Sequence r looks at image rows_R[r] (int64); gathered layer by layer, when needed."""
        return replace(self, rows_R=rows_R)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one cross-attention layer, [B or R, H, N, E]."""
        keys, values = self.layers[index]
        if self.rows_R is None:
            return keys, values
        # As they lie in memory, [B, N, H, E]: the way back adds whole rows too.
        return tuple(x.transpose(1, 2).index_select(0, self.rows_R).transpose(1, 2) for x in (keys, values))


class Pass(NamedTuple):
    """Sequences under one rule: queries that look at images, texts, or both ([queries; text]).

    context: number of an earlier pass of the same call; the text rows also see its queries where the rule lets text
    see queries. So captions are generated from the query rows that the contrastive pass has computed anyway.
    read: which text rows of the output anybody reads: all, each text's first, none. The last layer computes no others.
    """

    rule: masks.Rule
    image: ImageKV | None = None
    text: PackedText | None = None
    context: int | None = None
    read: Literal["all", "first", "none"] = "all"


class Output(NamedTuple):
    """Last hidden states of a pass: query_RQD, and text_LD in the packed order of the pass' text ([R, D] where only
    first tokens are read); None for what is absent or not read."""

    query_RQD: Tensor | None
    text_LD: Tensor | None


class QFormer(nn.Module):
    """BERT with query tokens and cross-attention to an image (paper, 3.1; sizes: NUMERICS, Q-Former).

    Args:
        vision_width: width of the image features.
        num_queries: query tokens per image.
        hidden: width. layers: number of blocks. heads: attention heads. intermediate: feed-forward width.
        cross_every: cross-attention in layers 0, cross_every, 2 * cross_every, ...
        dropout: on hidden states and attention, in training only.
        vocab_size: words of the text half, [DEC] included; null leaves the text half out, as in stage 2.
        max_positions: longest text.
    Raises:
        ValueError: sizes that do not fit one another; all of them named.
    """

    def __init__(
        self,
        vision_width: int,
        num_queries: int = 32,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        cross_every: int = 2,
        dropout: float = 0.1,
        vocab_size: int | None = 30523,
        max_positions: int = 512,
    ):
        super().__init__()
        _check_sizes(num_queries, hidden, layers, heads, cross_every, dropout)
        self.num_queries, self.hidden, self.vision_width = num_queries, hidden, vision_width
        self.dropout = nn.Dropout(dropout)
        self.query_tokens = nn.Parameter(torch.empty(num_queries, hidden))
        self.ln_vision = nn.LayerNorm(vision_width, eps=1e-5)
        self.embedding_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.word_embeddings = None if vocab_size is None else nn.Embedding(vocab_size, hidden)
        self.position_embeddings = None if vocab_size is None else nn.Embedding(max_positions, hidden)
        self.layers = nn.ModuleList(
            QFormerLayer(
                hidden, heads, intermediate, dropout,
                vision_width=vision_width if index % cross_every == 0 else None,
                text=vocab_size is not None,
            )
            for index in range(layers)
        )  # fmt: skip
        self.init_weights()

    def init_weights(self) -> None:
        """Linear, embeddings and queries ~ N(0, 0.02), biases 0, norms 1; a query feed-forward copies its text twin."""
        nn.init.normal_(self.query_tokens, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.copy_text_feed_forward()

    @torch.no_grad()
    def copy_text_feed_forward(self) -> None:
        """Start every query feed-forward as its text twin (NUMERICS, Q-Former, initialisation)."""
        for layer in self.layers:
            if layer.text_mlp is not None:
                layer.query_mlp.load_state_dict(layer.text_mlp.state_dict())

    def project_image(self, features_BND: Tensor) -> ImageKV:
        """Frozen features [B, N, W], any float type, to the keys and values of every cross-attention layer.

        ln_vision's affine part is folded into the projection: features that need no gradient then cost none, while
        ln_vision still learns. Raises ValueError for features of another width.
        """
        if features_BND.shape[-1] != self.vision_width:
            raise ValueError(
                f"image features are {features_BND.shape[-1]} wide, the Q-Former was built for vision_width="
                f"{self.vision_width}: give it the encoder's width"
            )
        normed_BND = F.layer_norm(features_BND.float(), (self.vision_width,), eps=self.ln_vision.eps)
        return ImageKV(
            tuple(
                layer.cross.project_image(normed_BND, self.ln_vision.weight, self.ln_vision.bias)
                for layer in self.layers
                if layer.cross is not None
            )
        )

    def forward(self, passes: Sequence[Pass]) -> list[Output]:
        """Run all passes in lockstep; one Output each. Raises ValueError for a text where the text half is absent."""
        plan = _Plan(passes, self.num_queries)
        query_MD, text_MD = self._embed_queries(plan), self._embed_texts(plan)
        cross_index = 0
        for layer in self.layers:
            last = layer is self.layers[-1]
            query_MD, text_MD = layer(query_MD, text_MD, plan, cross_index, last)
            cross_index += layer.cross is not None
        return plan.split(query_MD, text_MD)

    def _embed_queries(self, plan: "_Plan") -> Tensor:
        normed_QD = self.embedding_norm(self.query_tokens)
        return self.dropout(normed_QD.expand(plan.query_sequences, -1, -1)).reshape(-1, self.hidden)

    def _embed_texts(self, plan: "_Plan") -> Tensor:
        texts = [each.text for each in plan.passes if each.text is not None]
        if not texts:
            return self.query_tokens.new_empty(0, self.hidden)
        if self.word_embeddings is None:
            raise ValueError("this Q-Former has no text half: build it with vocab_size to give it texts")
        ids_L = torch.cat([text.ids_L for text in texts])
        position_L = torch.cat([text.position_L for text in texts])
        embedded_LD = self.word_embeddings(ids_L) + self.position_embeddings(position_L)
        return self.dropout(self.embedding_norm(embedded_LD))


def _check_sizes(num_queries: int, hidden: int, layers: int, heads: int, cross_every: int, dropout: float) -> None:
    problems = [
        f"{name}={value} must be at least 1"
        for name, value in dict(num_queries=num_queries, layers=layers, heads=heads, cross_every=cross_every).items()
        if value < 1
    ]
    if heads >= 1 and hidden % heads:
        problems.append(f"hidden={hidden} cannot be split into heads={heads}: choose a multiple")
    if not 0 <= dropout < 1:
        problems.append(f"dropout={dropout} must lie in [0, 1)")
    if problems:
        raise ValueError("; ".join(problems))


class QFormerLayer(nn.Module):
    """Post-LN block: shared self-attention, cross-attention of the query rows, a feed-forward for each half."""

    def __init__(
        self, hidden: int, heads: int, intermediate: int, dropout: float, vision_width: int | None, text: bool
    ):
        super().__init__()
        self.attention = SelfAttention(hidden, heads, dropout)
        self.cross = None if vision_width is None else CrossAttention(hidden, heads, dropout, vision_width)
        self.query_mlp = FeedForward(hidden, intermediate, dropout)
        self.text_mlp = FeedForward(hidden, intermediate, dropout) if text else None

    def forward(
        self, query_MD: Tensor, text_MD: Tensor, plan: "_Plan", cross_index: int, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Query rows and text rows of all passes, [M, D] each, to the same; the last layer makes what is read."""
        rows_MD = self.attention(torch.cat([query_MD, text_MD]), plan, last)
        query_MD, text_MD = rows_MD.split([plan.query_rows, len(rows_MD) - plan.query_rows])
        if len(query_MD):
            if self.cross is not None:
                query_MD = self.cross(query_MD, plan, cross_index)
            query_MD = self.query_mlp(query_MD)
        if len(text_MD):
            text_MD = self.text_mlp(text_MD)
        return query_MD, text_MD


class SelfAttention(nn.Module):
    """BERT's self-attention with its residual and norm, over the rows of every pass."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows_MD: Tensor, plan: "_Plan", last: bool) -> Tensor:
        """[M, D] to [M, D]; in the last layer, to the rows that are read."""
        pieces = self.qkv(rows_MD).split(plan.query_counts + plan.text_counts)
        queries, texts = iter(pieces[: len(plan.query_counts)]), iter(pieces[len(plan.query_counts) :])
        dropout = self.attention_dropout if self.training else 0.0
        contexts, attended = {}, []
        for number, part in enumerate(plan.parts):
            qkv_RSF = part.gather(next(queries) if part.queries else None, None if part.text is None else next(texts))
            query, key, value = (x.transpose(1, 2) for x in qkv_RSF.unflatten(-1, (3, self.heads, -1)).unbind(2))
            contexts[number] = key, value
            if part.context is not None:
                seen = [x[:, :, : plan.num_queries] for x in contexts[part.context]]
                key, value = torch.cat([seen[0], key], dim=2), torch.cat([seen[1], value], dim=2)
            out_RHSE = F.scaled_dot_product_attention(query, key, value, part.mask, dropout)
            attended.append(part.scatter(out_RHSE.transpose(1, 2).flatten(2), part.read_L if last else part.slot_L))
        out_MD = torch.cat([rows for rows, _ in attended] + [rows for _, rows in attended])
        if last and plan.read_M is not None:
            rows_MD = rows_MD.index_select(0, plan.read_M)
        return self.norm(rows_MD + self.dropout(self.output(out_MD)))


class CrossAttention(nn.Module):
    """Query rows look at the image's keys and values; residual and norm included."""

    def __init__(self, hidden: int, heads: int, dropout: float, vision_width: int):
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.query = nn.Linear(hidden, hidden)
        self.kv = nn.Linear(vision_width, 2 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def project_image(self, normed_BND: Tensor, scale_D: Tensor, shift_D: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised features [B, N, W] under ln_vision's scale and shift [W] to keys and values [B, H, N, E]."""
        weight = self.kv.weight * scale_D
        bias = torch.mv(self.kv.weight, shift_D) + self.kv.bias
        kv_BNHE = F.linear(normed_BND, weight, bias).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return kv_BNHE[0].transpose(1, 2), kv_BNHE[1].transpose(1, 2)

    def forward(self, query_MD: Tensor, plan: "_Plan", cross_index: int) -> Tensor:
        """Query rows of all passes [M, D] to the same."""
        dropout = self.attention_dropout if self.training else 0.0
        attended = []
        for looking_MD, (image, passes) in zip(self.query(query_MD).split(plan.look_counts), plan.looks):
            query_PBQHE = looking_MD.view(passes, len(image), plan.num_queries, self.heads, -1)
            query_BHSE = query_PBQHE.permute(1, 3, 0, 2, 4).flatten(2, 3)
            out_BHSE = F.scaled_dot_product_attention(query_BHSE, *image.layer(cross_index), dropout_p=dropout)
            out_PBQHE = out_BHSE.unflatten(2, (passes, -1)).permute(2, 0, 3, 1, 4)
            attended.append(out_PBQHE.reshape(looking_MD.shape))
        return self.norm(query_MD + self.dropout(self.output(torch.cat(attended))))

    @torch.no_grad()
    def attention_map(self, query_BQD: Tensor, key_BHNE: Tensor) -> Tensor:
        """How much each query looks at each image token, mean over heads: [B, Q, N], rows summing to 1."""
        query_BHQE = self.query(query_BQD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = query_BHQE @ key_BHNE.transpose(-1, -2) / query_BHQE.shape[-1] ** 0.5
        return scores.softmax(-1).mean(1)


class FeedForward(nn.Module):
    """BERT's feed-forward with its residual and norm."""

    def __init__(self, hidden: int, intermediate: int, dropout: float):
        super().__init__()
        self.expand = nn.Linear(hidden, intermediate)
        self.output = nn.Linear(intermediate, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_MD: Tensor) -> Tensor:
        """[M, D] to [M, D]."""
        return self.norm(x_MD + self.dropout(self.output(F.gelu(self.expand(x_MD)))))


class _Part(NamedTuple):
    """One pass' place in the matrix of all rows, and its mask."""

    sequences: int
    queries: int
    text: PackedText | None
    source_L: Tensor | None
    slot_L: Tensor | None
    read_L: Tensor | None
    context: int | None
    mask: Tensor | None

    def gather(self, query_MF: Tensor | None, text_LF: Tensor | None) -> Tensor:
        """This pass' query rows and text rows to its padded sequences [R, S, F]."""
        parts = []
        if query_MF is not None:
            parts.append(query_MF.view(self.sequences, self.queries, -1))
        if text_LF is not None:
            text_LF = text_LF if self.source_L is None else text_LF.index_select(0, self.source_L)
            parts.append(text_LF.view(self.sequences, self.text.max_length, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def scatter(self, x_RSD: Tensor, slot_L: Tensor | None) -> tuple[Tensor, Tensor]:
        """Padded sequences back to (query rows, real text rows)."""
        query_RQD, text_RTD = x_RSD.split([self.queries, x_RSD.shape[1] - self.queries], dim=1)
        text_LD = text_RTD.flatten(0, 1)
        if slot_L is not None:
            text_LD = text_LD.index_select(0, slot_L)
        return query_RQD.flatten(0, 1), text_LD


class _Plan:
    """Where each pass' rows lie and who sees whom: made once a forward, read by every layer."""

    def __init__(self, passes: Sequence[Pass], num_queries: int):
        self.passes, self.num_queries = passes, num_queries
        self.images = [each.image for each in passes if each.image is not None]
        self.query_counts = [len(image) * num_queries for image in self.images]
        # Passes in a row that look at the same images look together: keys and values are read once.
        runs = [list(run) for _, run in groupby(self.images, key=id)]
        self.looks = [(run[0], len(run)) for run in runs]
        self.look_counts = [len(image) * passes * num_queries for image, passes in self.looks]
        self.query_rows = sum(self.query_counts)
        self.query_sequences = sum(map(len, self.images))
        self.text_counts = [len(each.text.ids_L) for each in passes if each.text is not None]
        self.parts = [self._part(each) for each in passes]
        self.read_counts, self.read_M = self._read()

    def _read(self) -> tuple[list[int], Tensor | None]:
        """Text rows that are read: how many of each pass; and their places among all rows, None if that is all."""
        texts = [each for each in self.passes if each.text is not None]
        if all(each.read == "all" for each in texts):
            return self.text_counts, None
        device = texts[0].text.ids_L.device
        places_M = torch.arange(self.query_rows + sum(self.text_counts), device=device)
        query_M, *texts_M = places_M.split([self.query_rows, *self.text_counts])
        texts_M = [_read_rows(each, rows_M) for each, rows_M in zip(texts, texts_M)]
        return [len(rows_M) for rows_M in texts_M], torch.cat([query_M, *texts_M])

    def _part(self, each: Pass) -> _Part:
        if each.image is None and each.text is None:
            raise ValueError("a pass needs an image, a text or both")
        if None not in (each.image, each.text) and len(each.image) != len(each.text):
            raise ValueError(f"{len(each.image)} image rows and {len(each.text)} texts in one pass: give as many")
        rows = []
        if each.image is not None:
            rows.append(masks.Segment("query", self.num_queries))
        if each.text is not None:
            rows.append(masks.Segment("text", each.text.max_length, each.text.valid_BT))
        seen = [masks.Segment("query", self.num_queries)] if each.context is not None else []
        slot_L = None if each.text is None or each.text.full else each.text.slot_L
        return _Part(
            sequences=len(each.image if each.text is None else each.text),
            queries=0 if each.image is None else self.num_queries,
            text=each.text,
            source_L=None if each.text is None or each.text.full else each.text.source_BT.flatten(),
            slot_L=slot_L,
            read_L=slot_L if each.text is None or each.read == "all" else _read_rows(each, each.text.slot_L),
            context=each.context,
            mask=masks.attention_mask(each.rule, rows, [*seen, *rows]),
        )

    def split(self, query_MD: Tensor, text_MD: Tensor) -> list[Output]:
        """Rows of all passes to one Output per pass."""
        queries = iter(query_MD.split(self.query_counts))
        texts = iter(text_MD.split([count for count in self.read_counts if count]))
        return [
            Output(
                None if each.image is None else next(queries).view(len(each.image), self.num_queries, -1),
                None if each.text is None or each.read == "none" else next(texts),
            )
            for each in self.passes
        ]


def _read_rows(each: Pass, rows_L: Tensor) -> Tensor:
    """Of one number per text row of a pass, those of the rows that are read."""
    return {"all": rows_L, "first": rows_L[each.text.starts_B], "none": rows_L[:0]}[each.read]
