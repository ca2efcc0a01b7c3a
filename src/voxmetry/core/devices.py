"""Where a network can run: the one list of names."""

from __future__ import annotations

from typing import Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps", "openvino"]
"""auto: the fastest that there is for the model."""
