"""The files of code behind the classes that a config names."""

from pathlib import Path

import pytest

from lit_blip2.ablation.run import fingerprint
from lit_blip2.ablation.run.code import code_files

CONFIG = {"model": {"net": {"bridge": {"class_path": "mine.bridges.Wide", "init_args": {"tokens": 4}}}}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A package of one's own in the working folder: Wide needs layers.py by a dot, gains.py and helper.py by name."""
    for name, text in {
        "mine/__init__.py": "",
        "mine/bridges.py": "from .layers import Layer\nfrom mine import gains\nimport helper\nT = 'words.yaml'\n",
        "mine/layers.py": "from lit_blip2.model.bridge import LinearBridge\n",
        "mine/gains.py": "import json\n",
        "mine/words.yaml": "[a]",
        "mine/unused.py": "",
        "helper.py": "",
        "other.py": "",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_they_are_the_classs_package_and_what_it_imports_from_elsewhere(here):
    found = {str(file.relative_to(here)) for file in code_files(CONFIG, fingerprint.PACKAGE)}
    beside = {"gains.py", "layers.py", "words.yaml", "bridges.py", "unused.py", "__init__.py"}
    assert found == {f"mine/{name}" for name in beside} | {"helper.py"}
    others = ["lit_blip2.lit.LitStage1", "torch.nn.GELU", "a photo of.", "data/mini"]
    assert code_files(others, fingerprint.PACKAGE) == []


def test_without_a_package_file_a_folder_is_one_all_the_same(here):
    Path("mine/__init__.py").unlink()
    found = {file.name for file in code_files(CONFIG, fingerprint.PACKAGE)}
    assert found == {"gains.py", "layers.py", "words.yaml", "bridges.py", "unused.py", "helper.py"}


@pytest.mark.parametrize("name", ["mine/bridges.py", "mine/layers.py", "mine/gains.py", "mine/words.yaml", "helper.py"])
def test_an_edit_in_any_of_them_counts(here, name):
    before = fingerprint.code(CONFIG)
    Path("other.py").write_text("x = 1\n")
    assert fingerprint.code(CONFIG) == before != ""
    Path(name).write_text(Path(name).read_text() + "\n# edited\n")
    assert fingerprint.code(CONFIG) != before
    assert fingerprint.all_sources([CONFIG]) == fingerprint.sources() + fingerprint.code(CONFIG)


def test_files_by_joined_parts_and_modules_by_their_names_count(here):
    for name, text in {
        "mine/tables/en/w.txt": "a",
        "mine/lists/other.txt": "b",
        "lists/names.json": "[]",
        "shared.txt": "",
        "plugin.py": "",
        "mine/words_en.tsv": "",
        "mine/a.vocab": "",
        "mine/key.json": "{}",
        "mine/third/lib.py": "",
        "resources/en/a.txt": "",
        "lists/de.lst": "",
        "mine/deep/er/b.bin": "",
        "mine/gains.py": """
import importlib, sys
from pathlib import Path
HERE = Path(__file__).parent
T = (HERE / "tables" / "en" / "w.txt").read_text(), (HERE.parent / "shared.txt").read_text()
P = importlib.import_module("plugin")
N = Path("lists/names.json").read_text()  # from the working folder
def words(language): return (HERE / f"words_{language}.tsv").read_text(), (HERE / (language + ".json"))
V = list(HERE.glob("*.vocab"))
sys.path.insert(0, str(HERE / "third"))
import lib
R = Path("resources") / "en" / "a.txt", "lists/{}.lst".format("de"), list(HERE.rglob("*.bin"))
UP = Path(".") / ".." / "/"
""",
    }.items():
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text(text)
    found = {str(file.relative_to(here)) for file in code_files(CONFIG, fingerprint.PACKAGE)}
    assert found >= {
        "mine/tables/en/w.txt", "plugin.py", "lists/names.json", "shared.txt", "mine/words_en.tsv", "mine/a.vocab",
        "mine/key.json", "mine/third/lib.py", "resources/en/a.txt", "lists/de.lst", "mine/deep/er/b.bin",
    }  # fmt: skip
    assert not found & {"mine/lists/other.txt", "other.py"}


def test_a_module_behind_a_link_reads_what_lies_beside_the_link(here):
    Path("real").mkdir()
    Path("real/wide.py").write_text(
        "from pathlib import Path\nT = Path(__file__).with_name('w.txt')\nclass Wide: ...\n"
    )
    Path("mine/wide.py").symlink_to(here / "real/wide.py")
    Path("mine/w.txt").write_text("a")
    found = code_files({"class_path": "mine.wide.Wide"}, fingerprint.PACKAGE)
    assert here / "mine/w.txt" in found and here / "mine/wide.py" in found
