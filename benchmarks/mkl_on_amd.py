"""How much faster MKL multiplies matrices on an AMD processor once it takes its AVX-512 code.

    OMP_NUM_THREADS=1 python benchmarks/mkl_on_amd.py --out mkl_on_amd.so

PyTorch multiplies float32 matrices on CPUs with Intel's MKL, which takes its AVX-512 code on Intel's processors alone.
This script compiles a library of one function, which tells MKL that the processor is Intel's. Then it measures matrix
products of the mini-world's sizes in processes with and without that library, in turns. It needs Linux and `cc`.

The library stays: after `export LD_PRELOAD=$PWD/mkl_on_amd.so` every command uses it. Sums are then made in another
order, so that results differ in their last digits from those of runs without it. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout need not be installed
from benchmarks.measure import ratio

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"
SIZES = ((1536, 128, 512), (3000, 512, 128), (512, 512, 512))  # rows, columns in, columns out
MEASURE = """
import sys, time, torch
rows, columns, out = map(int, sys.argv[1:])
x, w = torch.randn(rows, columns), torch.randn(out, columns)
for turns in (5, 50):
    start = time.perf_counter()
    for _ in range(turns):
        torch.nn.functional.linear(x, w)
print((time.perf_counter() - start) / turns)
"""


def compiled(out: Path) -> Path:
    """The library, from a C compiler (`cc`)."""
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", out], input=SOURCE, text=True, check=True)
    return out.resolve()


def seconds(size: tuple[int, ...], library: Path | None) -> float:
    """Of one matrix product, in a process of its own."""
    environment = os.environ | ({"LD_PRELOAD": str(library)} if library else {})
    command = [sys.executable, "-c", MEASURE, *map(str, size)]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("mkl_on_amd.so"), help="the library, which is kept")
    parser.add_argument("--repetitions", type=int, default=5)
    args = parser.parse_args()
    library, found = compiled(args.out), {}
    for size in SIZES:
        pairs = [(seconds(size, None), seconds(size, library)) for _ in range(args.repetitions)]
        found["x".join(map(str, size))] = [round(each, 2) for each in ratio(*map(list, zip(*pairs)))]
    print(json.dumps({"times faster: median, least, greatest": found}))


if __name__ == "__main__":
    main()
