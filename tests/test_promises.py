"""Every promise names tests that are there."""

import re
from pathlib import Path

PAGE = Path("docs/promises.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?[^`]*`")


def test_each_names_tests_that_are_there():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| ") or line.startswith("| fault"):
            continue
        file = None
        shown = line.rstrip("| ").rpartition(" | ")[2]
        for path, name in NAMED.findall(shown):
            file = path or file
            assert file is not None, line
            content = Path(file).read_text(encoding="utf-8")
            assert not name or f"def {name}(" in content, f"{file}::{name}"
        assert file is not None or shown == "the same", line
