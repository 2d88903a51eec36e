"""What a checkpoint may name in lmms-eval, `--model_args allow=...`: with a run whose bridge is a class of one's own.
Where lmms-eval is not installed, an empty module stands in for each of its own that the model imports."""

import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
import yaml
from PIL import Image

from lit_blip2 import inference
from lit_blip2.trust import NotAllowedError
from tests.commands.test_ask import QUESTION, folder  # noqa: F401 (fixture)

OWN = """
from pathlib import Path

from lit_blip2.model.bridge import QFormerBridge

Path(__file__).with_name("imported").touch()


class Bridge(QFormerBridge):
    pass
"""
MISSING = find_spec("lmms_eval") is None
STAND_INS = {
    "lmms_eval": (),
    "lmms_eval.api": (),
    "lmms_eval.api.instance": ("GenerationResult", "Instance"),
    "lmms_eval.api.model": ("lmms",),
    "loguru": ("logger",),
}


@pytest.fixture
def model(monkeypatch):
    """The model's class. A file that was imported with stand-ins is forgotten after the test."""
    if MISSING:
        for module, names in STAND_INS.items():
            stand_in = ModuleType(module)
            vars(stand_in).update({name: type(name, (), {}) for name in names})
            monkeypatch.setitem(sys.modules, module, stand_in)
        monkeypatch.delitem(sys.modules, "lit_blip2.harness", raising=False)
    from lit_blip2.harness import BLIP2

    yield BLIP2
    if MISSING:
        sys.modules.pop("lit_blip2.harness", None)


@pytest.fixture
def own_run(folder, tmp_path, monkeypatch):  # noqa: F811
    """A checkpoint whose bridge is a class of a module that lies beside it."""
    contents = torch.load(folder / "runs/mini/version_0/checkpoints/last.ckpt", weights_only=True)
    config = yaml.safe_load(contents["config"])
    config["model"]["init_args"]["net"]["init_args"]["bridge"]["class_path"] = "own_bridges.Bridge"
    torch.save(contents | {"config": yaml.safe_dump(config)}, tmp_path / "last.ckpt")
    (tmp_path / "own_bridges.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_bridges", raising=False)
    yield tmp_path / "last.ckpt"
    sys.modules.pop("own_bridges", None)


def test_a_class_of_ones_own_is_refused_until_it_is_named(model, own_run, folder, image_of_noise):  # noqa: F811
    for allow in ("", "other own_bridge own_bridges.Other"):
        with pytest.raises(NotAllowedError, match=r"last\.ckpt names own_bridges\.Bridge, .* was not imported"):
            model(str(own_run), allow=allow, device="cpu")
    assert not own_run.with_name("imported").exists()
    made = model(str(own_run), allow="other.place own_bridges", device="cpu")
    assert own_run.with_name("imported").exists() and type(made.run.net.bridge).__module__ == "own_bridges"
    wanted = inference.load(folder / "runs/mini")
    texts = [
        run.write(image_of_noise, [f"Question: {QUESTION} Answer:"], max_new_tokens=4, num_beams=2)
        for run in (made.run, wanted)
    ]
    assert texts[0] == texts[1] and texts[0][0]


@pytest.fixture
def image_of_noise(folder):  # noqa: F811
    """uint8 [1, 3, size, size]."""
    from lit_blip2.data.images import to_rgb
    from lit_blip2.data.transforms import eval_view

    return eval_view(to_rgb(Image.open(folder / "image.png")), 32)[None]
