"""Turns a text into a soft prompt from which a frozen language model generates that text, as in P-Former (arXiv
2307.07063). It is trained on texts alone (mini/train/prompter.py). Stage 2 can pull an image's soft prompt towards its
caption's (lit/aligned.py).

Legend: B texts, T padded text positions, Q soft prompt positions, S = Q + T, H width, D language model width,
V words of the language model.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lit_blip2.contents import DataError, read_object, reading
from lit_blip2.model.text import PackedText

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZES = ("vocabulary", "language_width", "num_tokens", "hidden", "layers", "heads", "longest")


class Prompter(nn.Module):
    """A transformer that reads a text in both directions; the outputs of its queries are the soft prompt.

    P-Former makes all positions from BERT's [CLS]. Here each is a query that looks at the words itself, so that a
    narrow network need not put a whole caption into one vector.

    Args:
        vocabulary: number of words of the language model, whose token ids are read.
        language_width: width of the language model's input embeddings.
        num_tokens: positions of the soft prompt.
        hidden: width. layers: number of blocks. heads: attention heads.
        longest: longest text in tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        language_width: int,
        num_tokens: int = 24,
        hidden: int = 128,
        layers: int = 3,
        heads: int = 4,
        longest: int = 64,
    ):
        super().__init__()
        self.vocabulary, self.language_width, self.num_tokens = vocabulary, language_width, num_tokens
        self.hidden, self.layers, self.heads, self.longest = hidden, layers, heads, longest
        self.queries = nn.Parameter(torch.empty(num_tokens, hidden))
        self.words, self.positions = nn.Embedding(vocabulary, hidden), nn.Embedding(longest, hidden)
        block = nn.TransformerEncoderLayer(
            hidden, heads, 4 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(block, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.projection = nn.Linear(hidden, language_width)
        for weight in (self.queries, self.words.weight, self.positions.weight):
            nn.init.normal_(weight, std=hidden**-0.5)

    def forward(self, text: PackedText) -> Tensor:
        """Soft prompts [B, Q, D] of texts, given as token ids of the language model without special tokens. Raises
        ValueError for a text that is too long."""
        ids_BT = text.padded()
        if ids_BT.shape[1] > self.longest:
            raise ValueError(f"a text of {ids_BT.shape[1]} tokens: this prompter reads at most longest={self.longest}")
        text_BTH = self.words(ids_BT) + self.positions.weight[: ids_BT.shape[1]]
        rows_BSH = torch.cat([self.queries.expand(len(text), -1, -1), text_BTH], dim=1)
        padding_BS = F.pad(~text.valid_BT, (self.num_tokens, 0))
        return self.projection(self.encoder(rows_BSH, src_key_padding_mask=padding_BS)[:, : self.num_tokens])


def save_prompter(prompter: Prompter, folder: Path, language: dict[str, Any]) -> None:
    """Write weights and sizes to a folder. language: signature of the language model that it was trained with."""
    save_file(prompter.state_dict(), folder / WEIGHTS)
    sizes = {name: getattr(prompter, name) for name in SIZES}
    (folder / CONFIG).write_text(json.dumps(sizes | {"language": language}) + "\n")


def read_prompter(folder: Path) -> tuple[Prompter, dict[str, Any]]:
    """The prompter in a folder, and the signature of its language model. Raises FileNotFoundError, or DataError if the
    folder holds no prompter."""
    found = read_object(folder / CONFIG)
    wrong = [name for name in SIZES if type(found.get(name)) is not int or found[name] < 1]
    if wrong or not isinstance(found.get("language"), dict):
        raise DataError(
            f"{folder / CONFIG} has no {', '.join(wrong) or 'language'} as a prompter's has: make one with `python -m "
            "lit_blip2 data make-models --only prompter`"
        )
    with reading(folder / WEIGHTS, "weights of a prompter"):
        prompter = Prompter(**{name: found[name] for name in SIZES})
        prompter.load_state_dict(load_file(folder / WEIGHTS))
    return prompter, found["language"]
