"""What one window of a network costs, in operations and memory, found out without running it.

It runs without data, on torch's meta device, where the tensors that live at once are added up.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from voxmetry.config import ModelSpec
from voxmetry.errors import OutputError
from voxmetry.io.atomic import write_text
from voxmetry.nn.cache import cache_root


@dataclass(frozen=True)
class NetworkCost:
    """What one window costs.

    Parameters
    ----------
    gflop
        10^9 operations, two for a product and its sum.
    live_bytes
        The most that its tensors hold at once in float32, input and output included, weights not.
    """

    gflop: float
    live_bytes: int


class _Live(TorchDispatchMode):
    """Adds up the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def network_cost(network: nn.Module, spec: ModelSpec) -> NetworkCost:
    """Find the cost of one window without running it."""
    shadow = copy.deepcopy(network).to("meta")
    patch = torch.zeros(1, spec.n_channels, *spec.window.patch, device="meta")
    live = _Live()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, live:
        shadow(patch)
    return NetworkCost(counter.get_total_flops() / 1e9, live.peak + patch.untyped_storage().nbytes())


def known_cost(make: Callable[[], nn.Module], spec: ModelSpec) -> NetworkCost:
    """Return the cost of one window, from the user's cache where it was found out before.

    To count operations torch imports its compiler, which takes longer than a small study's network. The network is
    made only where they must be counted.
    """
    what = (torch.__version__, spec.architecture, spec.window.patch)
    path = cache_root() / "cost" / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.json"
    try:
        return NetworkCost(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        cost = network_cost(make(), spec)
    # A cache that cannot be written is found out again next time.
    with contextlib.suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"gflop": cost.gflop, "live_bytes": cost.live_bytes}))
    return cost
