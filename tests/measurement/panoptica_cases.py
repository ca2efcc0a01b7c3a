"""Cases whose numbers panoptica has computed.

panoptica 2.1.7 asks for numpy below 2.3 and rich below 14, which would downgrade this project's environment, so its
numbers are kept in panoptica-2.1.7.json. In an environment with panoptica, this file writes them anew:

    python tests/measure/panoptica_cases.py | tail -1 > tests/measure/panoptica-2.1.7.json
"""

from __future__ import annotations

import json
import sys

import numpy as np

RULES = {"iou": ("NaiveThresholdMatching", 0.5), "hungarian": ("MaxBipartiteMatching", 0.2)}
SEEDS = range(4)


def case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and reference: up to eight balls, some missing, some moved by a voxel, some touching."""
    rng = np.random.default_rng(seed)
    shape = (30, 28, 26)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    prediction, reference = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for _ in range(8):
        centre, radius = rng.integers(3, [27, 25, 23]), rng.integers(2, 5)
        if rng.random() < 0.85:
            reference[((grid - centre) ** 2).sum(-1) <= radius * radius] = 1
        if rng.random() < 0.85:
            moved = centre + rng.integers(-1, 2, 3)
            prediction[((grid - moved) ** 2).sum(-1) <= (radius + rng.integers(-1, 2)) ** 2] = 1
    return prediction, reference


def main() -> None:
    """Print panoptica's numbers of all cases as JSON."""
    import panoptica
    from panoptica.metrics import Metric

    found = {}
    for rule, (matcher, threshold) in RULES.items():
        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=panoptica.InputType.SEMANTIC,
            instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(
                cca_backend=panoptica.CCABackend.cc3d
            ),
            instance_matcher=getattr(panoptica, matcher)(matching_threshold=threshold),
            instance_metrics=[Metric.DSC, Metric.IOU],
            global_metrics=[Metric.DSC],
        )
        for seed in SEEDS:
            (result,) = evaluator.evaluate(*case(seed)).values()
            names = ("n_ref_instances", "n_pred_instances", "tp", "fp", "fn", "prec", "rec", "rq", "sq", "pq", "sq_dsc")
            found[f"{rule}-{seed}"] = {name: float(getattr(result, name)) for name in names}
    # What panoptica itself prints goes to standard output too: the JSON is its last line.
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
