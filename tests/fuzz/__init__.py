"""Damaged files: each is read right or refused, never otherwise. See README.md."""

import sys
from pathlib import Path

# `python -m tests.fuzz` knows the helpers of the tests, such as the phantoms, as pytest does.
if (HELPERS := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(HELPERS)
