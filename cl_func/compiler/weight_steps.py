"""Plain gradient steps of a traced program as products that accumulate into the weight.

Such a step adds to the weight W a multiple of its gradient, which is a matrix product, with whatever decays, scales or gates it:
    W' = W + d W + s (A B)  where the gate is open, W elsewhere;    d and s one number a lane
As written this stores A B, reads it and writes W'. A product that accumulates into W does the same with a third of the memory
traffic:
    W' = W + d W + (s A) B    in place, and d = 0 without weight decay
Only on the CPU, and only for weights that the program may overwrite (donation). Steps of another form (momentum, Adam, clipping by
the norm of all gradients) are left as they are.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from cl_func.compiler.add_product import ADD_PRODUCT
from cl_func.compiler.emitting import emit

SMALLEST = 1 << 14  # elements of a weight: with fewer, calling the operation costs more than it saves

aten = torch.ops.aten


def rewrite_step(graph: Graph, copy: Node, final: list[Node], others: list[Node]) -> None:
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
