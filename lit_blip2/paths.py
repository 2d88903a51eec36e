"""Where a path in a YAML points to."""

from pathlib import Path

PACKAGE_PARENT = Path(__file__).resolve().parent.parent


def find(path: str | Path, what: str, way_out: str) -> Path:
    """An existing file or folder: relative to the working folder, else beside the package (`lit_blip2/mini/...`).

    Raises FileNotFoundError that says what is missing, where it was looked for and how to get it.
    """
    for candidate in (Path(path).expanduser(), PACKAGE_PARENT / path):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"{what}: no file or folder {str(path)!r}. {way_out}")
