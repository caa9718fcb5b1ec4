"""Repairing a traced step before it is compiled, where the compiler would get another value than torch does.

Elements that share memory, as those of lanes that begin with one tensor, are copied before some of them are written: inductor
(torch 2.13 and 2.14) writes one lane's element into all lanes, without an error.

    torch.compile(vmap(lambda i, v: torch.arange(5).index_put((i,), v)))        is wrong for more than one lane
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph

from cl_func.compiler.emitting import emit

aten = torch.ops.aten
# Of these only index_put was seen to be wrong; the others are compiled in the same way.
_WRITES = {
    aten.index_put,
    aten.index_add,
    aten.index_copy,
    aten.index_fill,
    aten.index_reduce,
    aten.scatter,
    aten.scatter_add,
    aten.scatter_reduce,
    aten.masked_scatter,
}


def repair(graph: Graph) -> None:
    """Repair, in place, a graph made by `make_fx`."""
    for node in list(graph.nodes):
        if getattr(node.target, "overloadpacket", None) not in _WRITES:
            continue
        written: Any = node.args[0]
        value = written.meta["val"]
        if any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
            with graph.inserting_before(node):
                node.replace_input_with(written, emit(graph, aten.clone.default, written))
