"""A text that no network can read is told with the images of its batch."""

from types import SimpleNamespace

import pytest
import torch

from lit_blip2.lit.module import LitBLIP2
from lit_blip2.model.tokenizer import BertTokenizer


def test_the_images_of_an_empty_text_are_named():
    tokenizer = BertTokenizer("lit_blip2/mini/weights/bert", 62, 8)
    evaluator = SimpleNamespace(prepare=lambda batch: tokenizer(batch["caption"]))
    batch = {"task": "train", "step": 7, "image_id": torch.tensor([12, 0]), "caption": ["a star", " "]}
    with pytest.raises(ValueError, match=r"step 7: texts \[1\] .* are empty.*; the images .* in its order, \[12, 0\]"):
        LitBLIP2.on_before_batch_transfer(SimpleNamespace(evaluators=[evaluator]), batch, 0)
