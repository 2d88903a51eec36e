"""The Q-Former: a BERT whose query tokens attend to an image (BLIP-2 paper, section 3.1; docs/numerics.md, Q-Former).

Queries and text share the self-attention and have separate feed-forwards. One forward runs several passes together; a
pass is a batch of sequences [queries; text] with one attention mask (`masks`). All tokens of all passes, without
padding, are rows of one matrix, query rows first, so each linear layer runs once. Only attention runs pass by pass.
The image is projected to keys and values once, and all passes share them. `passes` keeps the table of rows.

Legend: B images, P passes, R sequences of a pass, Q query tokens, L text tokens, N image tokens, S positions of a
sequence, M rows of the one matrix, D width, I inner width of a feed-forward, F width of queries, keys and values
together, H heads, E head width, W image width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.model import masks
from lit_blip2.model.passes import ImageKV, Output, Pass, RowTable
from lit_blip2.model.recompute import recomputed


class QFormer(nn.Module):
    """BERT with query tokens and cross-attention to an image. The defaults are the paper's, BERT-base's sizes.

    Args:
        vision_width: width of the image features.
        num_queries: number of query tokens per image.
        hidden: width of the hidden states.
        layers: number of blocks.
        heads: number of attention heads; must divide hidden.
        intermediate: feed-forward width.
        cross_every: blocks 0, cross_every, 2 * cross_every, ... have cross-attention to the image.
        dropout: dropout probability of hidden states and attention, in training.
        vocab_size: number of words, [DEC] included; null: no text weights, as in stage 2.
        max_positions: longest text in tokens.
        init_std: standard deviation of the initial weights. BERT's 0.02 suits a width of 768; for a narrow Q-Former
            take hidden ** -0.5, else its attention starts nearly uniform.
        windows: true: each query attends to its own box of patches (masks.windows), as in Cambrian-1's aggregator
            (arXiv 2406.16860); false: to the whole image.
    Raises:
        ValueError: sizes do not fit each other; the message names all problems.
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
        init_std: float = 0.02,
        windows: bool = False,
    ):
        super().__init__()
        _check_sizes(num_queries, hidden, layers, heads, intermediate, cross_every, dropout)
        self.num_queries, self.hidden, self.vision_width, self.windows = num_queries, hidden, vision_width, windows
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
        self.init_weights(init_std)

    def init_weights(self, std: float) -> None:
        """Linear layers, embeddings and queries from N(0, std), biases 0, norms 1; query feed-forwards copy the text
        ones."""
        nn.init.normal_(self.query_tokens, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        self.copy_text_feed_forward()

    @torch.no_grad()
    def copy_text_feed_forward(self) -> None:
        """Copy each text feed-forward to the query feed-forward (docs/numerics.md, Q-Former)."""
        for layer in self.layers:
            if layer.text_mlp is not None:
                layer.query_mlp.load_state_dict(layer.text_mlp.state_dict())

    def project_image(self, features_BND: Tensor) -> ImageKV:
        """Keys and values of every cross-attention layer, of image features [B, N, W] in any float dtype.

        The weight and bias of ln_vision are folded into the projection, so that frozen features need no gradient while
        ln_vision still trains. Raises ValueError for features of another width, and if windows do not fit them.
        """
        if features_BND.shape[-1] != self.vision_width:
            raise ValueError(
                f"image features are {features_BND.shape[-1]} wide, the Q-Former was built for vision_width="
                f"{self.vision_width}: give it the encoder's width"
            )
        normed_BND = F.layer_norm(features_BND.float(), (self.vision_width,), eps=self.ln_vision.eps)
        seen = masks.windows(self.num_queries, normed_BND.shape[1], normed_BND.device) if self.windows else None
        layers = tuple(
            layer.cross.project_image(normed_BND, self.ln_vision.weight, self.ln_vision.bias)
            for layer in self.layers
            if layer.cross is not None
        )
        return ImageKV(layers, mask_QN=seen)

    def forward(self, passes: Sequence[Pass], first: int | None = None) -> list[Output]:
        """Run all passes together, and return one Output for each.

        first: use only the first queries, as if there were no others; None: all. Raises ValueError for texts if the
        Q-Former has no text weights.
        """
        table = RowTable(passes, first or self.num_queries, self.query_tokens.device)
        rows_MD = torch.cat([self._query_rows(table), self._text_rows(passes)])
        cross_index = 0
        for layer in self.layers:
            read_M = table.read_M if layer is self.layers[-1] else None
            rows_MD = layer(rows_MD, table, cross_index, read_M)
            cross_index += layer.cross is not None
        return table.outputs(rows_MD)

    def _query_rows(self, table: RowTable) -> Tensor:
        whole = table.num_queries == self.num_queries  # a slice of a parameter has no gradient where FLOPs are counted
        normed_QD = self.embedding_norm(self.query_tokens if whole else self.query_tokens[: table.num_queries])
        return self.dropout(normed_QD.expand(table.query_rows // len(normed_QD), -1, -1)).reshape(-1, self.hidden)

    def _text_rows(self, passes: Sequence[Pass]) -> Tensor:
        texts = [each.text for each in passes if each.text is not None]
        if not texts:
            return self.query_tokens.new_empty(0, self.hidden)
        if self.word_embeddings is None:
            raise ValueError("this Q-Former has no text half: build it with vocab_size to give it texts")
        ids_L = torch.cat([text.ids_L for text in texts])
        position_L = torch.cat([text.position_L for text in texts])
        return self.dropout(self.embedding_norm(self.word_embeddings(ids_L) + self.position_embeddings(position_L)))


def _check_sizes(
    num_queries: int, hidden: int, layers: int, heads: int, intermediate: int, cross_every: int, dropout: float
) -> None:
    counts = dict(
        num_queries=num_queries, hidden=hidden, layers=layers, heads=heads, intermediate=intermediate,
        cross_every=cross_every,
    )  # fmt: skip
    problems = [f"{name}={value} must be at least 1" for name, value in counts.items() if value < 1]
    if heads >= 1 and hidden % heads:
        problems.append(f"hidden={hidden} cannot be split into heads={heads}: choose a multiple")
    if not 0 <= dropout < 1:
        problems.append(f"dropout={dropout} must lie in [0, 1)")
    if problems:
        raise ValueError("; ".join(problems))


class QFormerLayer(nn.Module):
    """A post-LN block: self-attention of queries and text, cross-attention of the queries, a feed-forward for each."""

    def __init__(
        self, hidden: int, heads: int, intermediate: int, dropout: float, vision_width: int | None, text: bool
    ):
        super().__init__()
        self.attention = SelfAttention(hidden, heads, dropout)
        self.cross = None if vision_width is None else CrossAttention(hidden, heads, dropout, vision_width)
        self.query_mlp = FeedForward(hidden, intermediate, dropout)
        self.text_mlp = FeedForward(hidden, intermediate, dropout) if text else None

    def forward(self, rows_MD: Tensor, table: RowTable, cross_index: int, read_M: Tensor | None) -> Tensor:
        """The updated rows of all passes, [M, D], or only the rows `read_M`."""
        rows_MD = self.attention(rows_MD, table, read_M)
        query_MD, text_MD = rows_MD.split([table.query_rows, len(rows_MD) - table.query_rows])
        if len(query_MD):
            if self.cross is not None:
                query_MD = self.cross(query_MD, table, cross_index)
            query_MD = self.query_mlp(query_MD)
        if len(text_MD):
            text_MD = self.text_mlp(text_MD)
        return torch.cat([query_MD, text_MD])


class SelfAttention(nn.Module):
    """BERT's self-attention with its residual and norm, over the rows of every pass."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows_MD: Tensor, table: RowTable, read_M: Tensor | None = None) -> Tensor:
        """The updated rows of all passes, [M, D], or only the rows `read_M`."""
        dropout = self.attention_dropout if self.training else 0.0
        attended = []
        for (_, seen, mask), qkv_RSF in zip(table.sequences, table.to_sequences(self.qkv(rows_MD))):
            query, key, value = (x.transpose(1, 2) for x in qkv_RSF.unflatten(-1, (3, self.heads, -1)).unbind(2))
            out_RHSE = F.scaled_dot_product_attention(query[:, :, seen:], key, value, mask, dropout)
            attended.append(out_RHSE.transpose(1, 2).flatten(2))
        out_MD = table.to_rows(attended, read_M)
        with recomputed([(out_MD, lambda: table.to_rows(attended, read_M))]):
            out_MD = self.output(out_MD)
        if read_M is not None:
            rows_MD = rows_MD.index_select(0, read_M)
        return self.norm(rows_MD + self.dropout(out_MD))


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
        """Keys and values, [B, H, N, E] each, of normalised features [B, N, W] with ln_vision's scale and shift [W]."""
        weight = self.kv.weight * scale_D
        bias = torch.mv(self.kv.weight, shift_D) + self.kv.bias
        kv_BNHE = F.linear(normed_BND, weight, bias).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return kv_BNHE[0].transpose(1, 2), kv_BNHE[1].transpose(1, 2)

    def forward(self, query_MD: Tensor, table: RowTable, cross_index: int) -> Tensor:
        """The updated query rows of all passes, [M, D]."""
        dropout = self.attention_dropout if self.training else 0.0
        attended = []
        rows = [rows for _, _, rows in table.looks]
        for (image, passes, _), looking_MD in zip(table.looks, self.query(query_MD).split(rows)):
            key, value = image.layer(cross_index)
            query_PBQHE = looking_MD.unflatten(1, (self.heads, -1)).unflatten(0, (passes, len(key), -1))
            query_BHSE = query_PBQHE.permute(1, 3, 0, 2, 4).flatten(2, 3)
            with recomputed(image.makers(cross_index, key, value)):
                out_BHSE = F.scaled_dot_product_attention(
                    query_BHSE, key, value, image.mask(query_BHSE.shape[2]), dropout
                )
            attended.append(out_BHSE.unflatten(2, (passes, -1)).permute(2, 0, 3, 1, 4))
        out_MD = _to_rows(attended)
        with recomputed([(out_MD, lambda: _to_rows(attended))]):
            out_MD = self.output(out_MD)
        return self.norm(query_MD + self.dropout(out_MD))

    @torch.no_grad()
    def attention_map(self, query_BQD: Tensor, key_BHNE: Tensor, mask_QN: Tensor | None = None) -> Tensor:
        """How much each query looks at each image token, mean over heads: [B, Q, N], rows summing to 1."""
        query_BHQE = self.query(query_BQD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = query_BHQE @ key_BHNE.transpose(-1, -2) / query_BHQE.shape[-1] ** 0.5
        if mask_QN is not None:
            scores = scores.masked_fill(~mask_QN, -torch.inf)
        return scores.softmax(-1).mean(1)


def _to_rows(parts_PBQHE: list[Tensor]) -> Tensor:
    """Joins the attention outputs of all runs of passes into rows, [M, D]."""
    return torch.cat([x_PBQHE.flatten(3).flatten(0, 2) for x_PBQHE in parts_PBQHE])


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
        expanded_MI = self.expand(x_MD)
        active_MI = F.gelu(expanded_MI)
        with recomputed([(active_MI, lambda: F.gelu(expanded_MI))]):
            out_MD = self.output(active_MI)
        return self.norm(x_MD + self.dropout(out_MD))
