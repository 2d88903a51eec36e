"""A stand-in for a training run: python stand_in.py RUN_FOLDER FATE. Ten lines, from where an earlier attempt stopped;
then metrics.json. It waits, fills the disk, breaks, is killed or leaves no metric if that is its fate."""

import json
import os
import signal
import sys
import time
from pathlib import Path

HALF, ALL = 5, 10
folder, fate = Path(sys.argv[1]), sys.argv[2]
progress = folder / "progress.txt"
for line in range(len(progress.read_text().split()) if progress.exists() else 0, ALL):
    if fate == "waits" and line == HALF:
        (folder / "pid.txt").write_text(str(os.getpid()))
        while not (folder / "go").exists():
            time.sleep(0.01)
    with progress.open("a") as stream:
        stream.write(f"{line}\n")
if fate == "fills":
    with (folder / "much.bin").open("wb", buffering=0) as stream:
        while stream.write(bytes(2**16)):
            pass
if fate == "broken":
    print("the script is broken")
    sys.exit(3)
if fate == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "metrics.json").write_text(json.dumps({} if fate == "silent" else {"loss/total": 1.0}))
