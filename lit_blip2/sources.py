"""Which version of this package runs: a digest of its files."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def sources() -> str:
    """Digest of the package's files, but for the room that runs sweeps, which changes no result."""
    left_out = {"ablation", "__pycache__"}
    files = [file for file in PACKAGE.rglob("*") if not left_out & {*file.relative_to(PACKAGE).parts}]
    return digest((str(file.relative_to(PACKAGE)), file.read_bytes()) for file in sorted(files) if file.is_file())


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """16 hexadecimal digits for named contents, in their order."""
    found = hashlib.sha256()
    for name, contents in parts:
        found.update(f"{name}\0{len(contents)}\0".encode() + contents)
    return found.hexdigest()[:16]
