"""InstructedBridge, whose Q-Former reads the language model's prompt beside the image (InstructBLIP, arXiv 2305.06500,
section 3.2). BLIP-2 does this with the question when it is fine-tuned for VQA (section 4.2).

Legend: B images, R prompts, N image tokens, Q query tokens, D bridge width, P language model width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lit_blip2.model import masks
from lit_blip2.model.bridge import soft_projection
from lit_blip2.model.qformer import Pass, QFormer
from lit_blip2.model.text import PackedText
from lit_blip2.model.tokenizer import BertTokenizer


class InstructedBridge(nn.Module):
    """Queries and prompt attend to each other; the query outputs are projected to the language model's width.

    The Q-Former reads the whole prompt of the language model, "Question:" and "Answer:" included, as in InstructBLIP;
    the BLIP-2 paper (section 4.2) mentions the question alone. The last layer has no text feed-forward, because its
    text outputs are not used.

    Args:
        vision_width: width of the image features.
        language_width: width of the language model's input embeddings.
        qformer: the Q-Former, with text weights.
        tokenizer: folder of the Q-Former's tokenizer (bert-base-uncased).
        max_text_tokens: longest prompt in tokens, [CLS] and [SEP] included; a longer prompt loses its beginning, as
            in LAVIS.
        projection_std: standard deviation of the projection's initial weights; null: nn.Linear's own
            initialisation (see QFormerBridge).
    Raises:
        ValueError: the Q-Former has no text weights, or fewer positions than `max_text_tokens`.
    """

    def __init__(
        self,
        vision_width: int,
        language_width: int,
        qformer: Callable[[int], QFormer],
        tokenizer: str,
        max_text_tokens: int = 128,
        projection_std: float | None = None,
    ):
        super().__init__()
        self.qformer = qformer(vision_width)
        if self.qformer.word_embeddings is None:
            raise ValueError("vocab_size=null leaves the Q-Former's text half out: this bridge reads with it")
        if max_text_tokens > (positions := self.qformer.position_embeddings.num_embeddings):
            raise ValueError(f"max_text_tokens={max_text_tokens}: the Q-Former has max_positions={positions}")
        self.qformer.layers[-1].text_mlp = None
        self.tokenizer_path, self.max_text_tokens = tokenizer, max_text_tokens
        self.tokenizer: BertTokenizer | None = None
        self.projection = soft_projection(self.qformer.hidden, language_width, projection_std)

    def load(self) -> None:
        """Read the Q-Former's tokenizer from disk."""
        words = self.qformer.word_embeddings.num_embeddings
        self.tokenizer = BertTokenizer(self.tokenizer_path, words, self.max_text_tokens, cut="beginning")

    def read(self, prompts: Sequence[str]) -> PackedText:
        """Prompts as token ids, on the CPU. Raises ValueError, with its position, for an empty prompt."""
        return self.tokenizer(prompts)

    def forward(self, features_BND: Tensor, prompts: PackedText, image_R: Tensor | None = None) -> Tensor:
        """Soft prompts, float [R, Q, P], of image features [B, N, width] and R prompts.

        image_R: int64, the index of each prompt's image; None: prompt i belongs to image i.
        """
        image = self.qformer.project_image(features_BND)
        image = image if image_R is None else image.select(image_R)
        (output,) = self.qformer([Pass(masks.BIDIRECTIONAL, image=image, text=prompts, read="none")])
        return self.projection(output.query_RQD)
