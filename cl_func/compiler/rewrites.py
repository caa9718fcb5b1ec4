"""What a traced step is rewritten into before it is compiled: the same values by fewer passes over memory.

A plain gradient step adds to the weight W a multiple of the product that is its gradient, whatever decays, scales or gates it:
    W' = W + d W + s (A B)  where the gate is open, W elsewhere;    d and s one number a lane
As written this makes A B, reads it and writes W'. One product that adds to W does the same with a third of the traffic in memory:
    W' = W + d W + (s A) B    in place, and d = 0 without weight decay
Only on the processor and only for weights that the program may overwrite (donation). What is not of this form (momentum, Adam,
clipping by the norm of all gradients) is left as it is.

Two small ones, for what inductor does not see: gathering all rows in order is no gather, and a running count over a few rows is a
sum over pairs, which joins the loops around it while a scan is a call of its own.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

SMALLEST = 1 << 14  # elements of a weight: below, calling the operation costs more than it saves
FEW = 64  # rows: a count over pairs of more would cost more than the scan

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
    threads = torch.get_num_threads()
    if weight.ndim == 3:
        torch.baddbmm(weight, a, b, out=weight)
    elif threads > 1 and weight.shape[0] % threads == 0:
        # One product is split over threads badly where the rows of B are few; as many products as threads are not.
        blocks = weight.unflatten(0, (threads, -1))
        torch.baddbmm(blocks, a.unflatten(0, (threads, -1)), b.expand(threads, *b.shape), out=blocks)
    else:
        torch.addmm(weight, a, b, out=weight)


torch.library.define("cl_func::add_product", "(Tensor(a!) weight, Tensor? gate, Tensor? decay, Tensor a, Tensor b) -> ()")
torch.library.impl("cl_func::add_product", "CPU")(_add_product)
torch.library.register_fake("cl_func::add_product")(lambda weight, gate, decay, a, b: None)

_OPERATION = torch.ops.cl_func.add_product.default


def rewrite(graph: Graph) -> None:
    """Rewrite a graph as made by `make_fx`, in place."""
    graph.eliminate_dead_code()
    nodes = list(graph.nodes)
    final = _final_copies(nodes)
    others = [node for node in nodes if _writes(node) and node not in final]
    for copy in list(final):
        _update(graph, copy, final, others)
    for node in nodes:
        if node.target is aten.index.Tensor and not others:
            _gather(node)
        elif node.target is aten.cumsum.default:
            _count(graph, node)
    graph.eliminate_dead_code()


def emit(graph: Graph, op: Any, *args: Any) -> Node:
    """Add an operation to the graph; its value is described by a tensor on the device meta."""
    node = graph.call_function(op, args)
    given = (x.meta["val"] if isinstance(x, Node) else x for x in args)
    node.meta["val"] = op(*(torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x for x in given))
    return node


def _writes(node: Node) -> bool:
    """Whether a node writes to one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _final_copies(nodes: list[Node]) -> list[Node]:
    """The copies of new values over inputs with which a donated program ends."""
    found: list[Node] = []
    for node in reversed(nodes[:-1]):
        if node.target is not aten.copy_.default or node.users or node.args[0].op != "placeholder":  # type: ignore[union-attr]
            break
        found.append(node)
    return found[::-1]


def _overwritten(node: Any, final: list[Node]) -> bool:
    """Whether a node is one of the inputs that the final copies write to, or a view of one."""
    while node.op == "call_function":
        schema = getattr(node.target, "_schema", None)  # of getitem there is none
        if schema is not None and not any(argument.alias_info for argument in schema.arguments):
            break
        node = node.args[0]
    return any(copy.args[0] is node for copy in final)


@dataclasses.dataclass(frozen=True)
class _Affine:
    """(whole + d) W + s A B; whole is an integer, d and s are numbers or nodes that broadcast over the matrix."""

    whole: int
    d: Any
    s: Any
    product: Node | None = None
    factors: tuple[Node, Node] | None = None


class _Reader:
    """Reads the new value of one weight as an affine form; `through` are the nodes that nothing else may use then."""

    def __init__(self, graph: Graph, weight: Node) -> None:
        self.graph, self.weight, self.through = graph, weight, set[Node]()
        self.value: Tensor = weight.meta["val"]

    def both(self, op: Any, plain: Any, x: Any, y: Any) -> Any:
        """A sum or a product of numbers and nodes."""
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
        """Whether something is one number a lane: of size 1 along the rows and columns of the weight."""
        if not isinstance(node, Node):
            return isinstance(node, (int, float))
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.ndim <= self.value.ndim and all(n == 1 for n in value.shape[-2:])

    def gated(self, node: Any) -> tuple[Node | None, Any]:
        """The gate of where(gate, new, W), or of several, and the new value."""
        gate: Node | None = None
        while isinstance(node, Node) and node.target is aten.where.self and self.number(node.args[0]):
            self.through.add(node)
            condition, new, old = node.args
            if new is self.weight:
                condition, new, old = emit(self.graph, aten.logical_not.default, condition), old, new
            if old is not self.weight:
                break
            gate = condition if gate is None else emit(self.graph, aten.logical_and.default, gate, condition)  # type: ignore[assignment]
            node = new
        return gate, node

    def affine(self, node: Any) -> _Affine | None:
        """The form of a node, None if it has another."""
        if node is self.weight:
            return _Affine(1, 0.0, 0.0)
        if not isinstance(node, Node) or node.kwargs:
            return None
        self.through.add(node)
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
        """The form of a node that is A B, also seen through transposes."""
        if not isinstance(node, Node):
            return None
        self.through.add(node)
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
        """The sum of two forms, of which one holds the product."""
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


def _update(graph: Graph, copy: Node, final: list[Node], others: list[Node]) -> None:
    """A new weight copied over the old one, as a product that adds to it."""
    weight: Any = copy.args[0]
    value: Any = weight.meta.get("val")
    right = isinstance(value, Tensor) and value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64)
    if not right or value.ndim not in (2, 3) or value.shape[-2:].numel() < SMALLEST:
        return
    with graph.inserting_before(final[0]):  # where the operands are what they were: nothing is written over yet
        reader = _Reader(graph, weight)
        gate, new = reader.gated(copy.args[1])
        form = reader.affine(new)
        if form is None or form.factors is None or form.whole != 1:
            return
        if any({*node.users} - reader.through - {copy} for node in reader.through):
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
        graph.call_function(_OPERATION, (weight, *operands))
    final[final.index(copy)] = copy.prev
    graph.erase_node(copy)


def _gather(node: Node) -> None:
    """The rows 0, 1, ... of joined rows that are no more than those, as the joined rows themselves.

    Of what is an input, the gathered rows are a copy, which must not see what is written there.
    """
    given: Any = node.args
    source, (*before, rows) = given
    whole = isinstance(rows, Node) and rows.target is aten.arange.default and not any(before)
    if whole and source.target is aten.cat.default and rows.args == (source.meta["val"].shape[len(before)],):
        node.replace_all_uses_with(source)


def _count(graph: Graph, node: Node) -> None:
    """A running count along the last axis, as a sum over pairs."""
    given: Any = node.args
    counted, dim = given[:2]
    value = counted.meta["val"]
    n = value.shape[-1] if value.ndim else 0
    if value.is_floating_point() or value.is_complex() or dim not in (-1, value.ndim - 1) or node.kwargs:
        return
    if not 0 < n <= FEW or value.numel() * n > 1 << 16:
        return
    with graph.inserting_before(node):
        turns = graph.call_function(aten.arange.default, (n,), {"device": value.device})
        turns.meta["val"] = torch.empty(n, dtype=torch.int64, device="meta")
        before = emit(graph, aten.le.Tensor, turns, emit(graph, aten.unsqueeze.default, turns, -1))
        pairs = emit(graph, aten.mul.Tensor, before, emit(graph, aten.unsqueeze.default, counted, -2))
        node.replace_all_uses_with(emit(graph, aten.sum.dim_IntList, pairs, [-1]))
