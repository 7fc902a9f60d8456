"""How many graphs torch.compile makes of a run, without making code for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.fx import GraphModule

Backend = Callable[[GraphModule, list[Any], dict[str, Any]], Callable[..., Any]]
"""Makes the code of a graph, of its example inputs and of Inductor's options, as torch.compile has them."""


@contextmanager
def compiled_by(backend: Backend) -> Iterator[None]:
    """Have torch.compile hand its graphs to `backend`, and fail where it would need more than one for a function."""
    compile_ = torch.compile

    def compiled(
        model: Callable[..., Any] | None = None,
        *,
        fullgraph: bool = True,
        dynamic: bool | None = None,
        mode: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        of_mode = torch._inductor.list_mode_options(mode) if mode not in (None, "default") else {}
        patches = {**of_mode, **(options or {})}
        return compile_(
            model, fullgraph=True, dynamic=dynamic, backend=lambda graph, inputs: backend(graph, inputs, patches)
        )

    torch._dynamo.reset()
    with mock.patch.object(torch, "compile", compiled):
        yield
    torch._dynamo.reset()


@contextmanager
def counted_graphs() -> Iterator[list[GraphModule]]:
    """The graphs that torch.compile has made so far, which run as they are."""
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: list[Any], options: dict[str, Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    with compiled_by(keep):
        yield graphs
