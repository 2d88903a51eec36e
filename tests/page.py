"""A page of docs whose Python is run: each block of python, and behind it the block of text that it leaves.

python -m tests.page docs/python.md FOLDER      # writes the outputs, of FOLDER's runs/ and data/, into the page
"""

import ast
import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)
# What may be otherwise in another run: texts, paths and numbers.
VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|[\w.-]*/[\w./=-]+|-?\d+(?:\.\d+)?(?:e-?\d+)?")


def output_of(code: str, names: dict[str, Any]) -> str:
    """What a notebook shows below a cell: what it prints, and the value of its last line, or the line of its error."""
    printed, tree = io.StringIO(), ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile(tree, "page", "exec"), names)
            value = None if last is None else eval(compile(ast.Expression(last.value), "page", "eval"), names)
            print(*[] if value is None else [repr(value)], end="\n" if value is not None else "")
        except (ValueError, TypeError) as error:
            print(f"{type(error).__name__}: {error}")
    return printed.getvalue()


def outputs(page: Path, folder: Path) -> list[tuple[str, str, str]]:
    """Of each block its code, the output that the page shows, and the one that it leaves in a folder."""
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    with contextlib.chdir(folder):
        return [(code, told, output_of(code, names)) for code, told in blocks]


def form(output: str) -> str:
    """An output without its values, which another run has otherwise."""
    return re.sub(r"\s+", "", VALUE.sub("*", output))


def main() -> None:
    page, folder = Path(sys.argv[1]).absolute(), Path(sys.argv[2])
    made = iter(outputs(page, folder))

    def shown(match: re.Match) -> str:
        code, _, left = next(made)
        return f"```python\n{code}```\n" + (f"\n```text\n{left}```\n" if left else "")

    page.write_text(BLOCK.sub(shown, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    main()
