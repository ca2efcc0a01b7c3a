"""What a benchmark ran on: a ratio holds for a kind of processor."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def processor() -> str:
    """Name the processor, what torch uses of it, whether it multiplies bf16, and its cores."""
    import torch

    from voxmetry.nn.openvino import openvino_has_bf16

    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.is_file() else None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    bf16 = "with bf16" if openvino_has_bf16() else "without bf16"
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}, {bf16}), {os.cpu_count()} cores"
