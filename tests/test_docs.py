"""What docs and docstrings name is there: links, anchors, files, tests, pages and cited sections."""

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


FENCED = re.compile(r"^```.*?^```|^    .*?$", re.MULTILINE | re.DOTALL)  # code is run by other tests
FOLDERS = tuple(f"{name}/" for name in ("ablations", "benchmarks", "docs", "experiments", "lit_blip2", "tests"))
BASES = [Path("."), Path("lit_blip2"), Path("experiments"), Path("experiments/zero_shot"), Path("ablations")]
READERS = {"config.yaml", "beside.yaml", "spread.yaml", "runs/demo.md"}  # files of a run, or that the reader writes


def slugs(markdown):
    """The anchors that GitHub gives a page's headings; equal headings are numbered."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", markdown), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", name) is not None for name in found)
        found.append(f"{slug}-{before}" if before else slug)
    return found


def is_there(page, target):
    """Whether a link's target, relative to its page, is a file or folder with that heading."""
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in slugs(file.read_text(encoding="utf-8")))


def names_a_path(text):
    """Whether a text in backticks names a file or folder of this repository, rather than one of a run or a data set."""
    return bool(re.fullmatch(r"[\w./*:#-]+", text)) and (
        text.startswith(FOLDERS) or bool(re.search(r"(/.*\.py|[\w*]\.(yaml|md|toml|cff))(::|#|$)", text))
    )


def path_is_there(text):
    """Whether some file matches: its name may be a pattern, and a test or a heading may follow it."""
    path, _, test = text.partition("::")
    path, _, anchor = path.partition("#")
    files = [file for base in BASES for file in base.glob(path)]
    return any(
        (not test or f"def {test}(" in file.read_text(encoding="utf-8"))
        and (not anchor or anchor in slugs(file.read_text(encoding="utf-8")))
        for file in files
    )


def missing(page, markdown):
    """The links and paths of a page that lead nowhere; addresses of the web are not looked up."""
    prose = FENCED.sub("", markdown)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    paths = [text for text in re.findall(r"`([^`\n]+)`", prose) if names_a_path(text) and text not in READERS]
    return [link for link in links if "://" not in link and not is_there(page, link)] + [
        path for path in paths if not path_is_there(path)
    ]


PAGES = [Path("README.md"), Path("SECURITY.md"), *sorted(Path("docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_anchors_and_paths_lead_somewhere(page):
    assert missing(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](data.md)",
        "[a](docs/data.md#no-such-heading)",
        "[a](#no-such-heading)",
        '<img src="docs/pictures/none.png">',
        "`docs/none.md`",
        "`docs/numerics.md#no-such-heading`",
        "`experiments/none_*.yaml`",
        "`model/none.py`",
        "`tests/test_docs.py::test_none`",
    ],
)
def test_what_leads_nowhere_is_found(text):
    assert len(missing(Path("README.md"), text)) == 1


def test_what_leads_somewhere_is_not_named():
    text = (
        "[a](docs/numerics.md#image-encoder) `docs/numerics.md#itc` `zero_shot/*.yaml` `model/bridge.py` `vqa/accuracy`"
    )
    assert missing(Path("README.md"), text) == []


def test_equal_headings_have_numbered_anchors():
    assert slugs("# A run's `end`\n\n    # code\n\n## Losses\n\n## Losses\n") == ["a-runs-end", "losses", "losses-1"]


def test_pages_that_files_cite_are_there():
    files = [file for folder in FOLDERS for file in Path(folder).rglob("*.*") if file.suffix in {".py", ".yaml"}]
    cited = {page for file in files for page in re.findall(r"\bdocs/\w+\.md", file.read_text(encoding="utf-8"))}
    assert cited - {"docs/none.md"} <= set(map(str, PAGES))
