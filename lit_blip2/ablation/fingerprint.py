"""What a step depends on besides its config: the files that its config names, and the package's sources."""

import hashlib
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
BY_SIZE = {".jpg", ".jpeg", ".png", ".webp", ".tar"}  # told apart by name and size: reading 82 GB would take long
LARGEST_READ = 2**30  # bytes


def sources() -> str:
    """Digest of the package's code, but for this room, which runs the commands and changes no result."""
    files = [file for file in PACKAGE.rglob("*.py") if "ablation" not in file.relative_to(PACKAGE).parts]
    return _digest((str(file.relative_to(PACKAGE)), file.read_bytes()) for file in sorted(files))


def paths(config: Any) -> list[str]:
    """The files and folders that a resolved config names, relative to here or beside the package."""
    root = str(config.get("data", {}).get("init_args", {}).get("root") or ".")
    named = {text for text in strings(config) if "/" in text}
    named |= {f"{root}/{text}" for text in named if text.startswith("../")}  # beside the data, such as other features
    return [text for text in sorted(named) if _find(text) is not None]


def of_path(text: str) -> str:
    """Of a file its contents; of a folder the names and contents below it, images, tars and giants by size alone."""
    path = _find(text)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return _digest((str(file.relative_to(path)), _contents(file)) for file in files)


def _find(text: str) -> Path | None:
    return next((each for each in (Path(text), PACKAGE.parent / text) if each.exists()), None)


def _contents(file: Path) -> bytes:
    size = file.stat().st_size
    if file.suffix.lower() in BY_SIZE or size > LARGEST_READ:
        return str(size).encode()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _digest(parts) -> str:
    digest = hashlib.sha256()
    for name, contents in parts:
        digest.update(f"{name}\0{len(contents)}\0".encode() + contents)
    return digest.hexdigest()[:16]


def strings(config: Any) -> set[str]:
    """Every string among the values of nested dicts and lists."""
    if isinstance(config, dict):
        return set().union(*map(strings, config.values()))
    if isinstance(config, list):
        return set().union(*map(strings, config))
    return {config} if isinstance(config, str) else set()
