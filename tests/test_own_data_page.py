"""Every command of docs/own_data.md, exactly as it is printed there, on a folder like the page's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path("docs/own_data.md")


@pytest.mark.slow
def test_the_page_works_as_it_is_printed(tmp_path):
    commands = [line.strip() for line in PAGE.read_text().splitlines() if line.startswith("    python -m lit_blip2")]
    for name in ("experiments", "lit_blip2"):
        (tmp_path / name).symlink_to(Path(name).absolute())
    (tmp_path / "photos").mkdir()
    rng, rows = np.random.default_rng(0), ["image,caption"]
    for name in ("IMG_0001.JPG", "beach, evening.png", *(f"{number}.jpg" for number in range(10))):
        Image.fromarray(rng.integers(256, size=(40, 60, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
        rows.append(f'"{name}","a red kettle, on a stove"')
    (tmp_path / "photos/captions.csv").write_text("\n".join(rows) + "\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    assert len(commands) == 5 and len((tmp_path / "captions.jsonl").read_text().splitlines()) == 12
