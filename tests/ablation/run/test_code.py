"""Which code of a package a step uses, by a small package whose every line leads somewhere or nowhere."""

from textwrap import dedent

import pytest

from lit_blip2.ablation.run.code import BEGIN, NO_NUMBERS, code_digest, reached
from lit_blip2.sources import PACKAGE

FILES = {
    "__init__.py": "",
    "start.py": """
        import json
        from lit_blip2 import tools
        from lit_blip2.nets import Net
        from lit_blip2.words import said

        LIMIT = 3

        def main():
            '''Said of it.'''
            from lit_blip2.late import helper  # only here
            return json, LIMIT, tools.used(), helper, said(), "lit_blip2.parts.Named"

        def other():
            return unused
        """,
    "tools.py": "def used():\n    return _inner()\n\n\ndef _inner():\n    return 1\n\n\ndef spare():\n    return 2\n",
    "late.py": "TABLE = {}\nTABLE['a'] = 1\n\n\ndef helper():\n    return load('table.json')\n\n\ndef spare(): ...\n",
    "table.json": "[1]",
    "parts/__init__.py": "from lit_blip2.parts.named import Named\nfrom lit_blip2.parts.idle import Idle\n",
    "parts/named.py": "class Named:\n    def run(self):\n        return 1\n\n\nclass Spare: ...\n",
    "parts/idle.py": "class Idle:\n    a = 1\n",
    "nets.py": '"""Said of nets."""\n\n\nclass Net:\n    a = 1\n',
    "words.py": "def said():\n    return 'one'\n",
}
START = {"callbacks": ["lit_blip2.start.main"]}
CONFIG = START | {"model": {"class_path": "lit_blip2.nets.Net", "root": "lit_blip2/nets.py"}}


@pytest.fixture
def digest(tmp_path):
    """The digest of a package with some texts replaced, each package in a folder of its own."""

    def digest(file: str = "", old: str = "", new: str = "", config: dict = CONFIG) -> str:
        package = tmp_path / str(len(list(tmp_path.iterdir()))) / "lit_blip2"
        for name, text in FILES.items():
            text = dedent(text)
            assert name != file or old in text
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text.replace(old, new) if name == file else text)
        return code_digest(config, package)

    return digest


@pytest.mark.parametrize(
    "change",
    [
        ("start.py", "LIMIT = 3", "LIMIT = 4"),
        ("tools.py", "return 1", "return 3"),  # two calls away
        ("late.py", "['a'] = 1", "['a'] = 2"),  # a statement that defines nothing
        ("late.py", "load(", "load_all("),
        ("table.json", "1", "2"),
        ("parts/named.py", "return 1", "return 2"),  # a text names it, by another module
        ("nets.py", "a = 1", "a = 2"),
    ],
)
def test_a_change_of_what_is_used_counts(digest, change):
    assert digest(*change) != digest()


@pytest.mark.parametrize(
    "change",
    [
        ("start.py", "return unused", "return None"),
        ("start.py", "Said of it.", "More\n    is said of it."),
        ("start.py", "  # only here", ""),
        ("tools.py", "return 2", "return 3"),
        ("tools.py", "def spare", "def added():\n    return 1\n\n\ndef spare"),
        ("late.py", "def spare(): ...", ""),
        ("parts/named.py", "class Spare: ...", "class Other: ..."),
        ("parts/idle.py", "a = 1", "a = 2"),
        ("words.py", "one", "two"),  # it only tells
        ("nets.py", "Said of nets.", "Said otherwise."),
    ],
)
def test_a_change_of_anything_else_does_not(digest, change):
    assert digest(*change) == digest()


def test_what_a_config_does_not_name_is_not_used(digest):
    without = START
    assert digest("nets.py", "a = 1", "a = 2", config=without) == digest(config=without) != digest()


def test_the_package_s_own_steps_lead_to_their_networks_and_not_to_commands_and_refusals():
    found = reached(
        BEGIN | {"lit_blip2.lit.LitStage1", "lit_blip2.data.coco.COCO", "lit_blip2.objectives.stage1.Stage1"}
    )
    modules = {module.removeprefix("lit_blip2.") for module, name in found if name}
    assert {"objectives.itc", "model.masks", "lit.module", "lit.optim", "data.batches.order", "keyed"} <= modules
    assert {"runs", "go_on", "evaluation.retrieval", "lit.callbacks.metrics_file", "pixels", "checkpoint"} <= modules
    assert not [name for name in modules if name.startswith(("ablation", "commands", "cli", "trust"))]
    assert PACKAGE.name == "lit_blip2"


def test_every_module_of_the_package_can_be_read():
    files = [file.relative_to(PACKAGE).with_suffix("").parts for file in PACKAGE.rglob("*.py")]
    names = {".".join(("lit_blip2", *parts)).removesuffix(".__init__") for parts in files}
    without = {f"lit_blip2.{name}" for name in NO_NUMBERS}
    assert without < names and {module for module, _ in reached(names)} == names - without
