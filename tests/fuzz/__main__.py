"""Damage files in many ways, and see that each is read right or refused.

    python -m tests.fuzz --data DATA --cases 20000

The cases are shared out among the targets: DICOM series, segmentations, structure sets, headers of other formats.
A finding names its target and seed, and `--only TARGET:SEED` repeats it. Exit code 1 with any finding.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
import time
from pathlib import Path

from .harness import Target, limit_memory, run


def targets() -> dict[str, Target]:
    """Return what the modules beside this one have to damage, each as its `TARGETS`."""
    folder = Path(__file__).parent
    found: dict[str, Target] = {}
    for module in pkgutil.iter_modules([str(folder)]):
        if not module.name.startswith(("_", "test")):
            loaded = importlib.import_module(f".{module.name}", __package__)
            found |= {target.name: target for target in getattr(loaded, "TARGETS", ())}
    return found


def main() -> int:
    """Run the cases, and print what became of them."""
    known = targets()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="folder of real files, beside those made by code")
    parser.add_argument("--cases", type=int, default=20_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the others follow")
    parser.add_argument("--targets", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument("--only", default=None, metavar="TARGET:SEED", help="run one case alone")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the cases, such as /dev/shm")
    given = parser.parse_args()
    chosen = [known[name] for name in given.targets]
    if given.only:
        name, _, seed = given.only.partition(":")
        chosen, given.seed, given.cases = [known[name]], int(seed), 1
    total, failed, begin = sum(target.share for target in chosen), False, time.perf_counter()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        made = {target.name: target.sources(given.data, Path(scratch) / target.name) for target in chosen}
        limit_memory()
        for target in chosen:
            count = max(1, round(given.cases * target.share / total))
            sources = made[target.name]
            tally = run(target, range(given.seed, given.seed + count), sources, Path(scratch), say=_say)
            counts = ", ".join(f"{number} {kind}" for kind, number in sorted(tally.counts.items()))
            _say(f"{target.name}: {count} cases of {len(sources)} sources: {counts}; slowest {tally.slowest_s:.2f} s")
            for why, number in tally.unjudged.most_common():
                _say(f"  {number} unjudged: {why}")
            failed |= bool(tally.findings)
    _say(f"{time.perf_counter() - begin:.0f} s")
    return 1 if failed else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
