"""Published sizes are what timm and transformers build."""

from lit_blip2.model.publish import refresh
from lit_blip2.model.published import published


def test_sizes_are_those_of_the_built_models():
    assert refresh() == published()
