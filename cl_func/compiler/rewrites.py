"""Rewriting a traced step before it is compiled: the same values with fewer passes over memory.

Plain gradient steps become products that accumulate into the weight (`weight_steps.py`). Three small rewrites do what inductor does
not: gathering all rows in order becomes those rows, a running count over a few rows becomes a sum over pairs, which is fused with
the loops around it, while a scan is a call of its own, and a bias is added in the loop after a product, instead of being copied to
all rows before it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from cl_func.compiler.emitting import emit
from cl_func.compiler.weight_steps import rewrite_step

FEW = 64  # rows: with more, a sum over pairs would cost more than the scan

aten = torch.ops.aten


def rewrite(graph: Graph) -> None:
    """Rewrite, in place, a graph made by `make_fx`."""
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    final = _final_copies(nodes)
    others = [node for node in nodes if _writes(node) and node not in final]
    for copy in list(final):
        rewrite_step(graph, copy, final, others)
    for node in nodes:
        if node.target is aten.index.Tensor and not others:
            _rewrite_gather(node)
        elif node.target is aten.cumsum.default:
            _rewrite_count(graph, node)
        elif node.target is aten.addmm.default:
            _rewrite_bias(graph, node)
    graph.eliminate_dead_code()


def _writes(node: Node) -> bool:
    """Whether a node writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _final_copies(nodes: list[Node]) -> list[Node]:
    """The copies of new values over inputs at the end of a donated program."""
    found: list[Node] = []
    for node in reversed(nodes[:-1]):
        if node.target is not aten.copy_.default or node.users or node.args[0].op != "placeholder":  # type: ignore[union-attr]
            break
        found.append(node)
    return found[::-1]


def _rewrite_gather(node: Node) -> None:
    """Replace gathering all rows 0, 1, ... of a concatenation by the concatenation itself.

    Not for rows of an input: there the gathered rows are a copy, which later writes to the input must not change.
    """
    args: Any = node.args
    source, (*before, rows) = args
    whole = isinstance(rows, Node) and rows.target is aten.arange.default and not any(before)
    if whole and source.target is aten.cat.default and rows.args == (source.meta["val"].shape[len(before)],):
        node.replace_all_uses_with(source)


def _rewrite_count(graph: Graph, node: Node) -> None:
    """Replace a running count along the last axis by a sum over pairs."""
    args: Any = node.args
    counted, dim = args[:2]
    value = counted.meta["val"]
    n = value.shape[-1] if value.ndim else 0
    if value.is_floating_point() or value.is_complex() or dim not in (-1, value.ndim - 1) or node.kwargs:
        return
    if not 0 < n <= FEW or value.numel() * n > 1 << 16:
        return
    with graph.inserting_before(node):
        index = graph.call_function(aten.arange.default, (n,), {"device": value.device})
        index.meta["val"] = torch.empty(n, dtype=torch.int64, device="meta")
        before = emit(graph, aten.le.Tensor, index, emit(graph, aten.unsqueeze.default, index, -1))
        pairs = emit(graph, aten.mul.Tensor, before, emit(graph, aten.unsqueeze.default, counted, -2))
        node.replace_all_uses_with(emit(graph, aten.sum.dim_IntList, pairs, [-1]))


def _rewrite_bias(graph: Graph, node: Node) -> None:
    """Replace b + A B by A B - (-b), which inductor does not turn back, on the CPU; the values are the same but for rounding."""
    args: Any = node.args
    bias, a, b = args
    if node.kwargs or bias.meta["val"].ndim != 1 or bias.meta["val"].device.type != "cpu" or not a.meta["val"].is_floating_point():
        return
    with graph.inserting_before(node):
        product = emit(graph, aten.mm.default, a, b)
        node.replace_all_uses_with(emit(graph, aten.sub.Tensor, product, emit(graph, aten.neg.default, bias)))
