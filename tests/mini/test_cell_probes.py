"""What the probes are asked, and what they find in features that hold it."""

import pytest
import torch

from lit_blip2.evaluation.probes import occurs
from lit_blip2.mini.cell_probes import ATTRIBUTE_C, CLASSES, CellProbes, labels, probe_items
from lit_blip2.mini.world import COLOURS, PLACES, SHAPES, Object, Scene, draw_scene, stream_rng


def test_labels_by_hand():
    """A red star in the middle, and a white circle below it at the left."""
    star = Object(SHAPES.index("star"), COLOURS.index("red"), 0, PLACES.index("center"), 0, 0)
    circle = Object(SHAPES.index("circle"), COLOURS.index("white"), 1, PLACES.index("bottom left"), 1, 1)
    labels_NC = labels([Scene((star, circle), 0), Scene((), 0)])
    shapes_91, colours_91 = labels_NC[0, :54].view(9, 6), labels_NC[0, 54:].view(9, 8)
    assert shapes_91.nonzero().tolist() == [[4, 3], [6, 0]] and colours_91.nonzero().tolist() == [[4, 0], [6, 7]]
    assert not labels_NC[1].any() and labels_NC.shape == (2, CLASSES) == (2, 9 * (6 + 8))
    assert (ATTRIBUTE_C[:54] == "shape").all() and (ATTRIBUTE_C[54:] == "colour").all()


def test_features_that_hold_the_colours_alone_tell_no_shapes():
    scenes = [draw_scene(stream_rng(0, "train", index), 1 + index % 4) for index in range(420)]
    truth_NC = labels(scenes)
    features_ND = truth_NC[:, ATTRIBUTE_C == "colour"].float()
    kept_C, ids_M = occurs(truth_NC[:300], truth_NC[300:]).nonzero()[:, 0], torch.arange(120)
    found = probe_items("queries", features_ND[:300], truth_NC[:300], features_ND[300:], truth_NC[300:], ids_M, kept_C)
    # Where something is, is no shape: an object in the cell makes each shape likelier.
    assert found["probe/queries_colour"].value() > 0.97 and found["probe/queries_shape"].value() < 0.85
    assert abs(found["probe/queries_chance"].value() - 0.5) < 0.05
    shapes = int((ATTRIBUTE_C[kept_C] == "shape").sum())
    parts = (
        shapes * found["probe/queries_shape"].value(),
        (len(kept_C) - shapes) * found["probe/queries_colour"].value(),
    )
    assert sum(parts) == pytest.approx(len(kept_C) * found["probe/queries"].value()) and len(kept_C) > 100
    few = probe_items("x", features_ND[:9], truth_NC[:9], features_ND[300:], truth_NC[300:], ids_M, torch.tensor([60]))
    assert "probe/x_shape" not in few and "probe/x_colour" in few


def test_one_scene_is_no_training_set():
    with pytest.raises(ValueError, match="most=1 must be at least 2 training scenes"):
        CellProbes(most=1)
