"""A null where a class takes none is refused by name, before anything is built."""

import pytest

from lit_blip2.nulls import check_nulls

COCO, MIXTURE = "lit_blip2.data.coco.COCO", "lit_blip2.data.mixture.Mixture"


def coco(**arguments) -> dict:
    return {"class_path": COCO, "init_args": arguments}


@pytest.mark.parametrize("name", ["augment", "seed", "batch_size", "max_unknown_words", "root"])
def test_an_argument_that_must_have_a_value_is_named(name):
    """Also one of the class that further arguments are passed on to; null is not the same as false or 0."""
    check_nulls(coco(**{name: 0}), "data")
    with pytest.raises(ValueError, match=rf"^data\.{name} is null, and must have a value: leave it out"):
        check_nulls(coco(**{name: None}), "data")
    with pytest.raises(ValueError, match=rf"^data\.sources\.one\.{name} is null"):
        check_nulls({"class_path": MIXTURE, "init_args": {"sources": {"one": coco(**{name: None})}}}, "data")


def test_what_may_be_none_stays():
    check_nulls(coco(val=None, features=None, image_size=None, vqa_test=None, unknown=None), "data")
    check_nulls({"class_path": COCO}, "data")
    check_nulls({"a": None, "b": [None, coco(val=None)]}, "data")
    check_nulls(None, "data")


@pytest.mark.parametrize("name", ["scoring", "question", "vqa_num_beams", "preset"])
@pytest.mark.parametrize("stage", ["LitStage2", "LitJoint"])
def test_arguments_that_a_class_passes_on_to_another_are_looked_at_too(stage, name):
    system = {"class_path": f"lit_blip2.lit.{stage}", "init_args": {name: None}}
    with pytest.raises(ValueError, match=rf"^model\.{name} is null, and must have a value: leave it out"):
        check_nulls(system, "model")
    check_nulls({"class_path": f"lit_blip2.lit.{stage}", "init_args": {"bert": None, "unknown": None}}, "model")
