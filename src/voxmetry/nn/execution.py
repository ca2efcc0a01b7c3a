"""How torch runs a network: operation by operation, compiled, or recorded as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from voxmetry.errors import ConfigError, InferenceError

EXECUTIONS = ("eager", "compile", "graph")

WARM_UP = 3
"""Runs before a recording, in which cuDNN chooses its algorithms."""

Run: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def require_execution(execution: str, device: str) -> None:
    """Raise `ConfigError` where a name is unknown or the device cannot run so."""
    if execution not in EXECUTIONS:
        raise ConfigError(
            found=f"execution {execution!r}", expected=f"one of {', '.join(EXECUTIONS)}", fix="name one of these"
        )
    places = {"eager": ("cpu", "cuda", "mps", "openvino"), "compile": ("cpu", "cuda"), "graph": ("cuda",)}[execution]
    if device not in places:
        raise ConfigError(
            found=f"execution {execution} on {device}",
            expected=f"one of the devices {', '.join(places)} for it",
            fix="use --execution eager (execution='eager'), or name such a device, as --device cpu (device='cpu')",
        )


class Compiled:
    """A network that torch's compiler has fused into fewer and larger steps, once for each size of batch.

    Parameters
    ----------
    network
        In evaluation mode, on its device.
    """

    def __init__(self, network: nn.Module) -> None:
        self._compiled: Run = torch.compile(network, dynamic=False)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Run one batch.

        Raises
        ------
        InferenceError
            If torch cannot compile here: it needs a C++ compiler on a CPU, and Triton on a GPU.
        """
        import torch._dynamo.exc

        try:
            return self._compiled(patches)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise InferenceError(
                found=f"torch could not compile the network: {type(error).__name__}",
                expected="a C++ compiler (CPU) or Triton (CUDA) that torch finds",
                fix="use --execution eager (execution='eager'), or install the compiler",
            ) from error


class Graph:
    """A network that is recorded as a CUDA graph for the first batch's shape and replayed without Python after that.

    The result lies in the graph's own memory and holds until the next call. Batches of another shape, such as a last
    one of fewer windows, are run without the graph.

    Parameters
    ----------
    run
        The network, with its automatic casts.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._graph: Any = None
        self._input = self._output = torch.empty(0)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Run one batch."""
        if self._graph is None:
            self._record(patches)
        if patches.shape != self._input.shape:
            return self._run(patches)
        self._input.copy_(patches)
        self._graph.replay()
        return self._output

    def _record(self, patches: torch.Tensor) -> None:
        self._input = patches.clone()
        # Work before a recording goes to a stream of its own, as torch asks for.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._run(self._input)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._run(self._input)
        self._graph = graph
