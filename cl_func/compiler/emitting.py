"""Adding operations to a traced graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node


def emit(graph: Graph, op: Any, *args: Any) -> Node:
    """Add an operation to the graph, with a tensor on the device meta that describes its value."""
    node = graph.call_function(op, args)
    values = (x.meta["val"] if isinstance(x, Node) else x for x in args)
    node.meta["val"] = op(*(torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x for x in values))
    return node
