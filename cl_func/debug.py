"""Numerical faults: an Update that stops at the first NaN or infinity and says where it occurred."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import contracts, tree
from cl_func.core import Strategy, TrainStep
from cl_func.core.kinds import Loss
from cl_func.core.nodes import Fused, Wrapper
from cl_func.storage import files
from cl_func.transforms import Compiled, F, _map_leaves


@dataclasses.dataclass(frozen=True)
class Watched(Wrapper):
    """A function of (state, exp) that raises FloatingPointError when its loss or its result is not finite."""

    save: Path | None = None

    same = True

    def __call__(self, state: Any, exp: Any = None) -> Any:
        # A loss is pure: called here with the same state, it gives the value that the step is about to minimise.
        loss = _loss_of(self.inner)
        if loss is not None:
            self._check([("the loss", loss(state, exp))], state, exp)
        out = self.inner(state, exp)
        after = out[0] if contracts.has_rows(out, state) else out
        self._check([(f"state.{path}" if path else "the state", leaf) for path, leaf in tree.items(after)], state, exp)
        return out

    def _check(self, values: list[tuple[str, Any]], state: Any, exp: Any) -> None:
        for path, leaf in values:
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                worst = leaf[~torch.isfinite(leaf)].flatten()[0].item()
                saved = "" if self.save is None else f"; the state before it is saved in {self.save}"
                if self.save is not None:
                    files.write_tree(self.save, state)
                raise FloatingPointError(
                    f"{path} is {worst} at {_where(state, exp)}{_lanes(leaf, state)}; lower the learning rate, clip the gradients "
                    f"(cl.optim.clip_by_global_norm) or look at the experience's inputs{saved}."
                )


def _loss_of(leaf: Any) -> Callable[[Any, Any], Tensor] | None:
    """The value of a leaf's loss as a function of (state, exp), if it is a train step."""
    if isinstance(leaf, Wrapper):
        inner = _loss_of(leaf.inner)
        return None if inner is None else leaf.lifted(inner)
    if isinstance(leaf, TrainStep):
        return partial(_value, leaf.loss)
    return None


def _value(loss: Loss, state: Any, exp: Any) -> Tensor:
    return contracts.loss_output(loss(state.model.params, state, exp), state)[0]


def _where(state: Any, exp: Any) -> str:
    index = getattr(exp, "index", None)
    count = getattr(getattr(state, "opt", None), "count", None)
    experience = "an unknown experience" if index is None else f"experience {index.flatten()[0].item()}"
    return experience if count is None else f"{experience}, optimiser step {count.flatten()[0].item()}"


def _lanes(leaf: Tensor, state: Any) -> str:
    key = getattr(state, "key", None)
    if key is None or key.ndim == 0:
        return ""
    bad = (~torch.isfinite(leaf)).flatten(1).any(1) if leaf.ndim > 1 else ~torch.isfinite(leaf)
    return f", lanes {bad.nonzero().flatten().tolist()}"


def check_finite(update: F, save: str | Path | None = None) -> F:
    """Watch every leaf of an Update: FloatingPointError at the first loss or floating leaf of the state that is NaN or infinite.

    The message names the value, its path, the experience, the optimiser's step and the lanes. It is for debugging: it evaluates the
    loss twice and waits for the device at every step. Apply it after `cl.vmap`; compiled functions run eagerly under it.

    save: a file for the state before the fault, with all its lanes; load it with `cl.load(save, like=state)`.
    """
    if save is not None and (not isinstance(save, (str, Path)) or not str(save)):
        raise TypeError(f"save: expected the path of a file, got {save!r}.")
    if isinstance(update, Strategy):
        return tree.replace(update, update=check_finite(update.update, save))
    return _map_leaves(partial(_watch, save=None if save is None else Path(save)), update)


def _watch(leaf: Any, save: Path | None) -> Fused | Watched:
    if isinstance(leaf, Compiled):
        return _watch(leaf.inner, save)
    return Fused(tuple(_watch(part, save) for part in leaf.parts)) if isinstance(leaf, Fused) else Watched(leaf, save)
