"""Digests of source files: of this package, and of a user's own classes."""

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
INSTALLED = {"site-packages", "dist-packages"}  # folders of packages that have a version


def sources() -> str:
    """Digest of the package's files, without those that run sweeps, which change no result."""
    left_out = {"ablation", "__pycache__"}
    files = [file for file in PACKAGE.rglob("*") if not left_out & {*file.relative_to(PACKAGE).parts}]
    return digest((str(file.relative_to(PACKAGE)), file.read_bytes()) for file in sorted(files) if file.is_file())


def own_sources(names: Iterable[str]) -> dict[str, str]:
    """Name -> digest of its file, for each loaded module in the user's own packages that dotted names
    (`my_project.model.Net`) begin with."""
    roots = {root for name in names if (root := name.partition(".")[0]) != name and root in sys.modules}
    files = {
        name: Path(file)
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in roots and (file := getattr(module, "__file__", None))
    }
    return {
        name: digest([("", file.read_bytes())])
        for name, file in sorted(files.items())
        if file.is_file() and PACKAGE not in file.resolve().parents and not INSTALLED & {*file.parts}
    }


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """16 hexadecimal digits for named contents, in their order."""
    found = hashlib.sha256()
    for name, contents in parts:
        found.update(f"{name}\0{len(contents)}\0".encode() + contents)
    return found.hexdigest()[:16]
