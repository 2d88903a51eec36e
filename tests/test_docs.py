"""What docs name is there: files, tests, and the sections of docs/numerics.md that docstrings cite."""

import re
from pathlib import Path

import pytest

NUMERICS = Path("docs/numerics.md").read_text()
SECTIONS = set(re.findall(r"^## (.+)$", NUMERICS, re.MULTILINE))


def test_cited_sections_are_there():
    sources = " ".join(file.read_text() for file in Path("lit_blip2").rglob("*.py")).replace("\n", " ")
    cited = set(re.findall(r"docs/numerics\.md,\s+([A-Za-z0-9-]+(?: [a-z0-9]+)?)", sources))
    assert cited and cited <= SECTIONS, cited - SECTIONS


def test_readme_stays_short():
    words = Path("README.md").read_text().split()
    assert sum(any(map(str.isalnum, word)) for word in words) <= 1000  # without the rules of tables


def test_each_section_names_the_tests_that_hold_it():
    parts = NUMERICS.split("\n## ")[1:]
    assert all("Held by `tests/" in part for part in parts)


@pytest.mark.parametrize("page", [Path("README.md"), *sorted(Path("docs").glob("*.md"))], ids=lambda page: page.stem)
def test_named_tests_and_pages_are_there(page):
    named = re.findall(r"`((?:tests|docs|benchmarks|experiments|ablations)/[\w/.-]+\.(?:py|md|yaml))", page.read_text())
    assert not [name for name in named if not Path(name).is_file()]
