"""Seconds that `import voxmetry` and `voxmetry --help` take, beside an empty interpreter and the peers' imports.

python benchmarks/bench_startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time

CASES = {
    "python -c pass": ["-c", "pass"],
    "import voxmetry": ["-c", "import voxmetry"],
    "voxmetry --help": ["-m", "voxmetry", "--help"],
    "voxmetry models list": ["-m", "voxmetry", "models", "list"],
    "import nibabel": ["-c", "import nibabel"],
    "import SimpleITK": ["-c", "import SimpleITK"],
    "import torch": ["-c", "import torch"],
    "import monai": ["-c", "import monai"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    print(f"{'':24}median s   min s   ({runs} runs, Python {sys.version.split()[0]})")
    for name, command in CASES.items():
        if name.startswith("import") and importlib.util.find_spec(name.split()[-1]) is None:
            continue
        seconds = []
        for _ in range(runs + 1):
            begin = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
        # The first run fills the file cache.
        print(f"{name:24}{statistics.median(seconds[1:]):8.3f}{min(seconds[1:]):8.3f}")


if __name__ == "__main__":
    main()
