"""What a factory does to initialise a module, recorded once, so that it can be done again with other draws.

A module is initialised by torch's operations: memory is made, filled with draws (uniform, normal) or constants, scaled, copied. The
record holds those that its parameters depend on, as functions of the contents of memories, by which views and in-place writes
become values.

Before it is used a record is tried: with torch's own draws under another key it must give what the factory gives, bit for bit. A
factory that looks at what it has drawn is refused: under yet another key it might do something else.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cl_func import random
from cl_func.models.seeding import seeded
from cl_func.torch_private import TorchDispatchMode, in_dispatch_mode, in_transform, pytree, storage_id, truncated_normal

_ATEN = torch.ops.aten
UNIFORM = {_ATEN.uniform_.default, _ATEN.rand.default, _ATEN.rand_like.default}
NORMAL = {_ATEN.normal_.default, _ATEN.randn.default, _ATEN.randn_like.default}
# Of these an in-place write does not depend on what was there.
_OVERWRITES = {_ATEN.uniform_.default, _ATEN.normal_.default, _ATEN.fill_.Scalar, _ATEN.fill_.Tensor, _ATEN.zero_.default}
_OVERWRITES |= {_ATEN.copy_.default}
# Each value is made of the value that was there, or of none.
_VALUE_BY_VALUE = {_ATEN.uniform_.default, _ATEN.normal_.default, _ATEN.fill_.Scalar, _ATEN.zero_.default, _ATEN.clamp_.default}
# What these return, or its shape, depends on values.
_BY_VALUE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_VALUE_BY_VALUE |= {_ATEN.mul_.Tensor, _ATEN.mul_.Scalar, _ATEN.add_.Tensor, _ATEN.add_.Scalar, _ATEN.erfinv_.default}


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor as a view of a memory: which one, and where its values are among the `count` values there."""

    memory: int
    count: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(value: Tensor) -> View:
        count = value.untyped_storage().nbytes() // value.element_size()
        return View(storage_id(value), count, value.dtype, tuple(value.shape), value.stride(), int(value.storage_offset()))

    def order(self) -> list[int] | None:
        """The axes from the slowest to the fastest, if in this order the values are the whole memory; else None."""
        axes = sorted(range(len(self.size)), key=lambda i: (-self.stride[i], -self.size[i]))
        step = 1
        for i in reversed(axes):
            if self.size[i] != 1 and self.stride[i] != step:
                return None
            step *= self.size[i]
        return axes if step == self.count and self.offset == 0 else None

    def _index(self, device: torch.device) -> Tensor:
        return torch.arange(self.count, device=device).as_strided(self.size, self.stride, self.offset).reshape(-1)

    def read(self, flat: Tensor) -> Tensor:
        """The values of the tensor, among those of its memory [count]."""
        axes = self.order()
        if axes is None:
            return flat[self._index(flat.device)].reshape(self.size)
        order = [axes.index(i) for i in range(len(axes))]
        return flat.reshape([self.size[i] for i in axes]).permute(order)

    def write(self, flat: Callable[[], Tensor], value: Tensor) -> Tensor:
        """The memory [count] with the values of the tensor written into it."""
        axes = self.order()
        if axes is not None:
            return value.permute(axes).reshape(-1)
        return flat().index_copy(0, self._index(value.device), value.reshape(-1))


@dataclasses.dataclass(frozen=True)
class Step:
    """An operation: its arguments, with views for tensors, and the views of what it wrote and made."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    written: tuple[tuple[int | str, View], ...]  # by the position of the argument
    made: tuple[tuple[int, View], ...]  # by the position among the outputs

    @property
    def draws(self) -> bool:
        return torch.Tag.nondeterministic_seeded in self.function.tags

    def mapped(self, function: Callable[[Any], Any]) -> Step:
        """The step with a function applied to its views, and to all else among its arguments."""
        written = tuple((i, function(view)) for i, view in self.written)
        made = tuple((i, function(view)) for i, view in self.made)
        return Step(self.function, pytree.tree_map(function, self.args), pytree.tree_map(function, self.kwargs), written, made)

    def targets(self) -> list[View]:
        return [view for _, view in (*self.written, *self.made)]

    def sources(self) -> Iterator[View]:
        """The views whose values it depends on."""
        for position, value in (*enumerate(self.args), *self.kwargs.items()):
            if not (self.function in _OVERWRITES and position == 0):
                yield from (leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, View))


def _with_rows(value: Any, *, n: int) -> Any:
    """A view of a whole memory as that of n rows of it; all else as it is."""
    if not isinstance(value, View):
        return value
    return dataclasses.replace(value, count=value.count // value.size[0] * n, size=(n, *value.size[1:]))


class _Recorder(TorchDispatchMode):
    """Records every operation that makes or writes a memory, and the contents of memories that come from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.outside: dict[int, Tensor] = {}
        self.known: set[int] = set()
        self.alive: list[Tensor] = []  # so that no memory is given to another tensor
        self.drawn: set[int] = set()  # memories whose contents depend on draws
        self.branches = False  # whether such contents were read, as for a branch

    def view(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        self.alive.append(value)
        view = View.of(value)
        if view.memory not in self.known:
            self.known.add(view.memory)
            self.outside[view.memory] = value.detach().as_strided((view.count,), (1,), 0).clone()
        return view

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        viewed, named = pytree.tree_map(self.view, tuple(args)), pytree.tree_map(self.view, dict(kwargs))
        inputs = {view.memory for view in pytree.tree_leaves((viewed, named)) if isinstance(view, View)}
        out = func(*args, **kwargs)
        drawn = torch.Tag.nondeterministic_seeded in func.tags or not self.drawn.isdisjoint(inputs)
        self.branches |= drawn and not _BY_VALUE.isdisjoint(func.tags)
        made = []
        for i, value in enumerate(pytree.tree_leaves(out)):
            if isinstance(value, Tensor) and storage_id(value) not in inputs:
                self.known.add(storage_id(value))
                made.append((i, self.view(value)))
        written: list[tuple[int | str, View]] = []
        if torch.Tag.inplace_view not in func.tags:  # these change which values a tensor sees, not the values
            for i, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    position: int | str = i if i < len(args) else argument.name
                    value = viewed[i] if i < len(args) else named.get(argument.name)
                    if isinstance(value, View):
                        written.append((position, value))
        if drawn:
            self.drawn |= {view.memory for _, view in (*made, *written)}
        if made or written:
            self.steps.append(Step(func, viewed, named, tuple(written), tuple(made)))
        return out


class Initialisation:
    """The record of what initialises the parameters of the modules that `build(key)` makes, tried under another key.

    Raises ValueError, naming a parameter, if it does not give what the factory gives, or if it draws in a way that is not known.
    """

    def __init__(self, build: Callable[[Tensor], nn.Module]) -> None:
        recorder = _Recorder()
        with seeded(random.key(0)), truncated_normal(_truncated_normal):  # no other module is initialised meanwhile
            with recorder:
                built = build(random.key(0))
            wanted = dict(build(random.key(1)).named_parameters())
        self.outputs = {name: recorder.view(value.detach()) for name, value in built.named_parameters() if value.requires_grad}
        self.steps, self.outside = recorder.steps, recorder.outside
        for name, view in self.outputs.items():
            if recorder.branches and view.memory in recorder.drawn:
                raise self._unknown(name, "it reads what it has drawn, by which its draws may go on in another way")
        with seeded(random.key(1)):
            found = self.run(list(self.outputs), _as_torch, torch.tensor(0), list(enumerate(self.steps)))
        self._needed: dict[frozenset[str], list[tuple[int, Step]]] = {}
        for name, value in found.items():
            if not torch.equal(value, wanted[name].detach()):
                raise self._unknown(name, "it depends on more than torch's operations and their draws")
        for name in self.outputs:
            for _, step in self.needed([name]):
                if step.draws and step.function not in UNIFORM | NORMAL:
                    raise self._unknown(name, f"{step.function} draws in a way that has no keyed counterpart")
        sources = {view.memory for _, step in self.needed(list(self.outputs)) for view in step.sources()}
        sources |= {view.memory for view in self.outputs.values()}
        self.outside = {memory: value for memory, value in self.outside.items() if memory in sources}

    def _unknown(self, name: str, why: str) -> ValueError:
        return ValueError(
            f"model: the distribution that its factory draws {name!r} from cannot be known, since {why}; give the model a function "
            "(key, params) -> params of your own: dataclasses.replace(model, fresh=function)."
        )

    def needed(self, names: Sequence[str]) -> list[tuple[int, Step]]:
        """The steps that some parameters depend on, with their positions in the record."""
        chosen = frozenset(names)
        if chosen not in self._needed:
            memories, kept = {self.outputs[name].memory for name in names}, []
            for i, step in reversed(list(enumerate(self.steps))):
                if any(view.memory in memories for view in step.targets()):
                    kept.append((i, step))
                    memories -= {view.memory for view in step.targets() if view.order() is not None}
                    memories |= {view.memory for view in step.sources()}
            self._needed[chosen] = kept[::-1]
        return self._needed[chosen]

    def by_rows(self, name: str) -> bool:
        """Whether each row of a parameter is made by itself, by draws and operations on single values."""
        view = self.outputs[name]
        whole = bool(view.size) and view.order() == list(range(len(view.size)))
        return whole and all(
            step.function in _VALUE_BY_VALUE and {*step.targets(), *step.sources()} <= {view} for _, step in self.needed([name])
        )

    def run(
        self,
        names: Sequence[str],
        draw: Callable[..., Tensor | None],
        key: Tensor,
        steps: Sequence[tuple[int, Step]],
        n_rows: int | None = None,
    ) -> dict[str, Tensor]:
        """Parameters that some steps make; `draw(key, i, step)` gives what step i draws, None for torch to do it.

        n_rows: of a parameter that is made `by_rows`, how many rows of it are drawn.
        """
        few = (lambda value: value) if n_rows is None else partial(_with_rows, n=n_rows)
        zero = key & 0  # in a vmapped run what is made of it has the lanes, so that it can be written in place
        memories = {memory: value.to(key.device) for memory, value in self.outside.items()}

        def blank(view: View, count: bool = False) -> Tensor:
            shape = (view.count,) if count else view.size
            return torch.zeros(shape, dtype=view.dtype, device=key.device) + zero.to(view.dtype)

        def read(view: Any) -> Any:
            if not isinstance(view, View):
                return view
            return view.read(memories[view.memory]) if view.memory in memories else blank(view)

        for i, recorded in steps:
            step = recorded if n_rows is None else recorded.mapped(few)
            outputs: Any = draw(key, i, step)
            if outputs is None:
                args, kwargs = pytree.tree_map(read, step.args), pytree.tree_map(read, step.kwargs)
                if kwargs.get("device") is not None:
                    kwargs["device"] = key.device
                values: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
                for position, view in step.written:
                    values[position] = (
                        values[position] + zero.to(view.dtype) if view.dtype != torch.bool else values[position].clone()
                    )
                outputs = step.function(*(values[n] for n in range(len(args))), **{name: values[name] for name in kwargs})
                changed = [(view, values[position]) for position, view in step.written]
            else:
                changed = [(view, outputs) for _, view in step.written]
            leaves = pytree.tree_leaves(outputs)
            for view, value in (*changed, *((view, leaves[n]) for n, view in step.made)):
                memories[view.memory] = view.write(partial(_old, memories, view, blank), value)
        return {name: read(few(self.outputs[name])) for name in names}


def _old(memories: dict[int, Tensor], view: View, blank: Callable[[View, bool], Tensor]) -> Tensor:
    return memories[view.memory] if view.memory in memories else blank(view, True)


def _truncated_normal(
    tensor: Tensor, mean: float, std: float, a: float, b: float, generator: torch.Generator | None = None
) -> Tensor:
    """A normal distribution within bounds by the inverse of its distribution function, for torch's, which draws until all fit."""
    lower, upper = (math.erf((bound - mean) / std / math.sqrt(2)) for bound in (a, b))
    with torch.no_grad():
        return tensor.uniform_(lower, upper, generator=generator).erfinv_().mul_(std * math.sqrt(2)).add_(mean).clamp_(a, b)


def _as_torch(key: Tensor, i: int, step: Step) -> None:
    """No draw of ours: torch does what it did."""


def record(build: Callable[[Tensor], nn.Module]) -> Initialisation:
    """The record of `build`, made outside of any transformation or trace that is under way."""
    if not in_transform() and not in_dispatch_mode():
        return Initialisation(build)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a thread has no transformations and no tracing of its caller's
        return pool.submit(Initialisation, build).result()
