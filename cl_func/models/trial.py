"""A trial pass that looks for hidden randomness in a module, and for parameters that it writes into.

A layer that draws from torch's generator (or numpy's, or Python's) makes two runs from one key differ. One pass shows whether a
generator has moved, and in which layer.
"""

from __future__ import annotations

import concurrent.futures
import pickle
import random as python_random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cl_func import random, tree
from cl_func.models.seeding import seeded
from cl_func.torch_private import TorchDispatchMode, in_dispatch_mode, in_transform, is_eager_cpu


class _WritesError(ValueError):
    """A module writes into its parameters, in its own words."""


class Trial:
    """The trial of the modules that `build(key)` makes; `done` once it took place. ValueError if a layer draws from a generator.

    function: what is called with the module and its inputs; None for the module itself.
    """

    def __init__(self, build: Callable[[Tensor], nn.Module], function: Callable[..., Any] | None = None) -> None:
        self.build, self.function, self.done = build, function, threading.Event()

    def run(self, x: Tensor) -> None:
        """A trial on the input of a first pass, x [n, ...]; if that is being traced, on noise of its shape, outside the trace."""
        n, *shape = (int(size) for size in x.shape)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:  # a thread has no transformations, modes or tracing of its caller's
            if is_eager_cpu(x):
                pool.submit(self._run_on_first, [((x[:4],), {}), ((x,), {})]).result()
                return
            for rows in (min(n, 4), n):
                pool.submit(self.run_on_shape, rows, shape, x.dtype).result()

    def run_on_shape(self, n: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> tuple[Any, Exception | None]:
        """A trial on noise [n, *shape], or on zeros for modules that take whole numbers: what it returns, and what it raises."""
        noise = random.normal(random.key(0), (n, *shape))
        return self._run_on_first([((noise.to(dtype),), {}), ((torch.zeros_like(noise, dtype=dtype),), {})])

    def run_like(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A trial on the arguments of a first call; if they are being traced, on noise of their shapes, outside the trace."""
        given = (args, kwargs)
        if not in_transform() and not in_dispatch_mode() and all(is_eager_cpu(x) for x in _tensors(given)):
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                pool.submit(self._run_on_first, [given]).result()
            return
        shapes = tree.map(lambda x: (tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x, given)

        def like(draw: Callable[[tuple[int, ...]], Tensor]) -> Any:
            return tree.map(lambda x, kind: draw(kind[0]).to(kind[1]) if isinstance(x, Tensor) else x, given, shapes)

        inputs = [like(lambda shape: random.normal(random.key(0), shape)), like(torch.zeros)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(self._run_on_first, inputs).result()

    def _run_on_first(self, inputs: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> tuple[Any, Exception | None]:
        """A trial on the first arguments that the module can take; none if it needs another number of rows, say.

        What the module returned, and what it raised if it could take none.
        """
        error = None
        for given in inputs:
            if self.done.is_set():
                return None, None
            try:
                # Twice: another thread may have moved numpy's generator.
                found, out = self._hidden_draw(given)
                found = found and self._hidden_draw(given)[0]
            except _WritesError:
                raise
            except Exception as raised:
                error = raised
                continue
            if found is not None:
                raise ValueError(f"factory: layer {found}")
            self.done.set()
            return out, None
        return None, error

    def _hidden_draw(self, given: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[str | None, Any]:
        """Which layer of a new module draws from a generator, and what to do about it, in words; and what the module returned."""
        module = self.build(random.key(0))
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)

        def plain(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return x.detach().to("cpu", dtype if dtype is not None and x.is_floating_point() else x.dtype)

        args, kwargs = tree.map(plain, given)

        out: Any = None

        def call() -> None:
            nonlocal out
            out = (self.function or _forward)(module, *args, **kwargs)

        before = {name: (p._version, p.detach().clone()) for name, p in module.named_parameters()}
        with seeded(random.key(0)):
            found = hidden_draw(module, call)
        for name, p in module.named_parameters():
            version, value = before[name]
            if p._version != version or not tree.equal(p.detach(), value):
                raise _WritesError(
                    f"factory: the module writes into its parameter {name!r} in its forward pass, which belongs to the caller; "
                    "let it compute a new tensor, or make it a buffer, which may change in training."
                )
        if found is None:
            return None, out
        path, generator, mode = found
        kind = type(module.get_submodule(path)).__name__
        words = (
            f"{path or 'the module itself'!r} ({kind}) draws from {generator} in {mode}, which no run owns: two runs from one key "
            "would differ. Use cl_func.models.Dropout or DropPath there, or a layer of your own made on cl_func.models.KeyedLayer; "
            f"if {kind} is not yours, replace={{{kind}: lambda layer: ...}} puts such a layer in its place."
        )
        return words, out


def _tensors(given: Any) -> list[Tensor]:
    return [leaf for leaf in tree.leaves(given) if isinstance(leaf, Tensor)]


def _forward(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)


def hidden_draw(module: nn.Module, call: Callable[[], Any]) -> tuple[str, str, str] | None:
    """The first draw of a module from a generator in a call: the path of the layer, the generator's name, and the mode.

    It changes the module, so give one that is thrown away. Errors of the module are raised, unless it has drawn before.
    """
    watch = _Watch()
    for path, layer in module.named_modules():
        watch.add_hooks(path, layer)
    for mode in ("training", "evaluation"):
        module.train(mode == "training")
        try:
            with watch, torch.enable_grad():
                watch.enter("")  # a method of the module may draw without a layer's pass
                call()
                watch.leave()
        except Exception:
            if not watch.found:
                raise
        if watch.found:
            return *watch.found[0], mode
    return None


class _Watch(TorchDispatchMode):
    """Records which layer's forward pass is running when a generator moves.

    Torch's generators are compared before and after each operation that may draw: too short a time for other threads to interfere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, Any]] = []  # the path of a layer and the other generators when its pass began
        self.found: list[tuple[str, str]] = []

    def add_hooks(self, path: str, layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda *given: self.enter(path))
        layer.register_forward_hook(lambda *given: self.leave())

    def enter(self, path: str) -> None:
        self.running.append((path, _other_generators()))

    def leave(self) -> None:
        path, before = self.running.pop()
        self.found.extend((path, name) for name, state in _other_generators().items() if state != before[name])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
            return func(*args, **kwargs)
        own = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]
        generators = own or [torch.default_generator]
        before = [generator.get_state() for generator in generators]
        out = func(*args, **kwargs)
        if any(not torch.equal(generator.get_state(), old) for generator, old in zip(generators, before, strict=True)):
            self.found.append((self.running[-1][0], "a torch.Generator" if own else "torch's generator"))
        return out


def _other_generators() -> dict[str, Any]:
    """The states of the generators that are not torch's."""
    return {
        "numpy's generator": pickle.dumps(np.random.get_state(legacy=False)),
        "Python's generator": python_random.getstate(),
    }
