"""Rewriting a traced step before it is compiled: the same values with fewer passes over memory.

A plain gradient step adds to the weight W a multiple of its gradient, which is a matrix product, with whatever decays, scales or
gates it:
    W' = W + d W + s (A B)  where the gate is open, W elsewhere;    d and s one number a lane
As written this stores A B, reads it and writes W'. A product that accumulates into W does the same with a third of the memory
traffic:
    W' = W + d W + (s A) B    in place, and d = 0 without weight decay
Only on the CPU, and only for weights that the program may overwrite (donation). Steps of another form (momentum, Adam, clipping by
the norm of all gradients) are left as they are.

Three small rewrites do what inductor does not: gathering all rows in order becomes those rows, a running count over a few rows
becomes a sum over pairs, which is fused with the loops around it, while a scan is a call of its own, and a bias is added in the
loop after a product, instead of being copied to all rows before it.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

SMALLEST = 1 << 14  # elements of a weight: with fewer, calling the operation costs more than it saves
FEW = 64  # rows: with more, a sum over pairs would cost more than the scan

aten = torch.ops.aten


def _add_product(weight: Tensor, gate: Tensor | None, decay: Tensor | None, a: Tensor, b: Tensor) -> None:
    if gate is not None:
        lanes = gate.flatten().tolist()
        if not any(lanes):
            return
        if not all(lanes):  # both factors: 0 times NaN is NaN
            a, b = torch.where(gate, a, 0), torch.where(gate, b, 0)
            decay = None if decay is None else torch.where(gate, decay, 0)
    if decay is not None and any(d != 0.0 for d in decay.flatten().tolist()):
        weight.addcmul_(weight, decay)
    weight, a, b = product_operands(weight, a, b)
    if weight.ndim == 3:
        torch.baddbmm(weight, a, b, out=weight)
    else:
        torch.addmm(weight, a, b, out=weight)


def product_operands(weight: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The operands of W + A B as those of a batch of products with one for each thread, where that can be done.

    A single product is badly split over threads if B has few rows; one product for each thread is not.
    """
    threads = torch.get_num_threads()
    if weight.ndim == 2 and threads > 1 and weight.shape[0] % threads == 0:
        return weight.unflatten(0, (threads, -1)), a.unflatten(0, (threads, -1)), b.expand(threads, *b.shape)
    return weight, a, b


torch.library.define("cl_func::add_product", "(Tensor(a!) weight, Tensor? gate, Tensor? decay, Tensor a, Tensor b) -> ()")
torch.library.impl("cl_func::add_product", "CPU")(_add_product)
torch.library.register_fake("cl_func::add_product")(lambda weight, gate, decay, a, b: None)

ADD_PRODUCT = torch.ops.cl_func.add_product.default


def rewrite(graph: Graph) -> None:
    """Rewrite, in place, a graph made by `make_fx`."""
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    final = _final_copies(nodes)
    others = [node for node in nodes if _writes(node) and node not in final]
    for copy in list(final):
        _rewrite_step(graph, copy, final, others)
    for node in nodes:
        if node.target is aten.index.Tensor and not others:
            _rewrite_gather(node)
        elif node.target is aten.cumsum.default:
            _rewrite_count(graph, node)
        elif node.target is aten.addmm.default:
            _rewrite_bias(graph, node)
    graph.eliminate_dead_code()


def emit(graph: Graph, op: Any, *args: Any) -> Node:
    """Add an operation to the graph, with a tensor on the device meta that describes its value."""
    node = graph.call_function(op, args)
    values = (x.meta["val"] if isinstance(x, Node) else x for x in args)
    node.meta["val"] = op(*(torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x for x in values))
    return node


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


def _overwritten(node: Any, final: list[Node]) -> bool:
    """Whether a node is an input that the final copies write to, or a view of one."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)  # getitem has none
        if schema is not None and not any(argument.alias_info for argument in schema.arguments):
            break
        node = node.args[0]
    return any(copy.args[0] is node for copy in final)


@dataclasses.dataclass(frozen=True)
class _Affine:
    """(whole + d) W + s A B; `whole` is an integer, d and s are numbers or nodes that broadcast over the matrix."""

    whole: int
    d: Any
    s: Any
    product: Node | None = None
    factors: tuple[Node, Node] | None = None


class _Reader:
    """Reads the new value of a weight as an affine form; `visited` are the nodes on the way, which nothing else may use."""

    def __init__(self, graph: Graph, weight: Node) -> None:
        self.graph, self.weight, self.visited = graph, weight, set[Node]()
        self.value: Tensor = weight.meta["val"]

    def both(self, op: Any, plain: Any, x: Any, y: Any) -> Any:
        """A sum or product of numbers and nodes."""
        if not isinstance(x, Node) and not isinstance(y, Node):
            return plain(x, y)
        return emit(self.graph, op, x, y) if isinstance(x, Node) else emit(self.graph, op, y, x)

    def times(self, x: Any, y: Any) -> Any:
        """x y."""
        return 0.0 if 0.0 in (x, y) else y if x == 1.0 else x if y == 1.0 else self.both(aten.mul.Tensor, operator.mul, x, y)

    def plus(self, x: Any, y: Any) -> Any:
        """x + y."""
        return y if x == 0.0 else x if y == 0.0 else self.both(aten.add.Tensor, operator.add, x, y)

    def node(self, x: Any) -> Node:
        """A number as a node."""
        if isinstance(x, Node):
            return x
        made = self.graph.call_function(aten.full.default, ([], x), {"dtype": self.value.dtype, "device": self.value.device})
        made.meta["val"] = torch.empty((), dtype=self.value.dtype, device="meta")
        return made

    def number(self, node: Any) -> bool:
        """Whether a node is one number for each lane: of size 1 along the rows and columns of the weight."""
        if not isinstance(node, Node):
            return isinstance(node, (int, float))
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.ndim <= self.value.ndim and all(n == 1 for n in value.shape[-2:])

    def gated(self, node: Any) -> tuple[Node | None, Any]:
        """The gate of where(gate, new, W), or of several nested ones, and the new value."""
        gate: Node | None = None
        while isinstance(node, Node) and node.target is aten.where.self and self.number(node.args[0]):
            self.visited.add(node)
            condition, new, old = node.args
            if new is self.weight:
                condition, new, old = emit(self.graph, aten.logical_not.default, condition), old, new
            if old is not self.weight:
                break
            gate = condition if gate is None else emit(self.graph, aten.logical_and.default, gate, condition)  # type: ignore[assignment]
            node = new
        return gate, node

    def affine(self, node: Any) -> _Affine | None:
        """The affine form of a node, or None if it has none."""
        if node is self.weight:
            return _Affine(1, 0.0, 0.0)
        if not isinstance(node, Node) or node.kwargs:
            return None
        self.visited.add(node)
        args: Any = node.args
        if node.target is aten.add.Tensor:
            return self.sum(self.affine(args[0]), self.affine(args[1]))
        if node.target is aten.sub.Tensor:
            return self.sum(self.affine(args[0]), self.scaled(-1.0, self.affine(args[1])))
        if node.target is aten.mul.Tensor:
            number, rest = args if self.number(args[0]) else args[::-1]
            return self.scaled(number, self.affine(rest)) if self.number(number) else None
        if node.target is aten.addcmul.default and self.number(args[2]):
            return self.sum(self.affine(args[0]), self.scaled(args[2], self.affine(args[1])))
        return self.matrix_product(node)

    def matrix_product(self, node: Any) -> _Affine | None:
        """The affine form of a node that is A B, or a transpose of it."""
        if not isinstance(node, Node):
            return None
        self.visited.add(node)
        args: Any = node.args
        if node.target in (aten.mm.default, aten.bmm.default):
            return _Affine(0, 0.0, 1.0, node, (args[0], args[1]))
        if node.target in (aten._unsafe_view.default, aten.view.default):
            inner: Any = args[0]
            return self.matrix_product(inner) if inner.meta["val"].shape == node.meta["val"].shape else None
        ndim = self.value.ndim
        flipped = node.target is aten.transpose.int and {d % ndim for d in args[1:]} == {ndim - 2, ndim - 1}
        found = self.matrix_product(args[0]) if flipped or node.target is aten.t.default else None
        if found is None or found.factors is None:
            return None
        a, b = (emit(self.graph, aten.transpose.int, factor, -2, -1) for factor in found.factors)
        return dataclasses.replace(found, factors=(b, a))

    def sum(self, x: _Affine | None, y: _Affine | None) -> _Affine | None:
        """The sum of two forms, of which at most one has a product."""
        if x is None or y is None or (x.product and y.product):
            return None
        return _Affine(x.whole + y.whole, self.plus(x.d, y.d), self.plus(x.s, y.s), x.product or y.product, x.factors or y.factors)

    def scaled(self, number: Any, x: _Affine | None) -> _Affine | None:
        """A multiple of a form."""
        if x is None:
            return None
        d = self.plus(self.times(number, float(x.whole)), self.times(number, x.d))
        return dataclasses.replace(x, whole=0, d=d, s=self.times(number, x.s))

    def fits(self, a: Any, b: Any) -> bool:
        """Whether A B is a matrix of the shape and dtype of the weight."""
        a, b = a.meta["val"], b.meta["val"]
        shapes = a.shape[:-1] == self.value.shape[:-1] and b.shape[:-2] == a.shape[:-2] and b.shape[-1] == self.value.shape[-1]
        return shapes and a.dtype == b.dtype == self.value.dtype


def _rewrite_step(graph: Graph, copy: Node, final: list[Node], others: list[Node]) -> None:
    """Replace the copy of a new weight over the old one by a product that accumulates into it."""
    weight: Any = copy.args[0]
    value: Any = weight.meta.get("val")
    suitable = isinstance(value, Tensor) and value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)
    if not suitable or value.ndim not in (2, 3) or value.shape[-2:].numel() < SMALLEST:
        return
    with graph.inserting_before(final[0]):  # where nothing has been overwritten yet, so that the operands have their old values
        reader = _Reader(graph, weight)
        gate, new = reader.gated(copy.args[1])
        form = reader.affine(new)
        if form is None or form.factors is None or form.whole != 1:
            return
        if any({*node.users} - reader.visited - {copy} for node in reader.visited):
            return
        order = {node: i for i, node in enumerate(graph.nodes)}
        if any(order[node] > order[form.product] for node in others):
            return
        a, b = emit(graph, aten.mul.Tensor, form.factors[0], form.s), form.factors[1]
        if not reader.fits(a, b):
            return
        decay = None if form.d == 0.0 else reader.node(form.d)
        operands = [
            emit(graph, aten.clone.default, x) if x is not None and _overwritten(x, final) else x for x in (gate, decay, a, b)
        ]
    with graph.inserting_before(copy):
        graph.call_function(ADD_PRODUCT, (weight, *operands))
    final[final.index(copy)] = copy.prev
    graph.erase_node(copy)


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
