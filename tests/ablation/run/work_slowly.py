"""A stand-in for a training run: python work_slowly.py RUN_FOLDER FATE. Ten lines, one at a time, from where an
earlier attempt stopped; then metrics.json."""

import json
import sys
import time
from pathlib import Path

folder, fate = Path(sys.argv[1]), sys.argv[2]
progress = folder / "progress.txt"
for line in range(len(progress.read_text().splitlines()) if progress.exists() else 0, 10):
    time.sleep(0.03)
    with progress.open("a") as stream:
        stream.write(f"{line}\n")
if fate == "broken":
    print("the script is broken")
    sys.exit(3)
(folder / "metrics.json").write_text(json.dumps({} if fate == "silent" else {"figure": 1.0}))
