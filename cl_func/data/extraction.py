"""Features of a whole dataset, computed once: what a frozen network makes of x, with the targets as they were.

    f_i = h(preprocess(x_i)),    h the network up to its last layer, in eval mode

A method that trains only what follows a frozen backbone does so on `Dataset(f, y)`, at the cost of a model of that size: class
means, streaming LDA, replay of features (Ostapenko et al., "Continual learning with foundation models: an empirical study of latent
replay", CoLLAs 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_func import checks, signatures, tree
from cl_func.data import feature_cache
from cl_func.experiences import as_float
from cl_func.models import Model, ModelState, PureModule, feature_function
from cl_func.progress import ProgressBar
from cl_func.sources import Dataset
from cl_func.tree import describe

Preprocess = Callable[[Tensor], Tensor]


def features(
    model: Model | PureModule,
    net: ModelState,
    dataset: Dataset,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 256,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Dataset:
    """The dataset with the features of its rows as x, [N, F] in the dtype of the network; y, task and n_classes as they were.

    Of a Model they are what enters its last layer, `model.features`, by which `cl.strategies.slda`, `ncm` and `icarl` classify;
    of `cl.models.pure(factory)` they are its output, of any shape [N, ...]. Each batch is moved to the device of `net`, and its
    features to that of the dataset. The train and the test set are two calls:

        train, test = (cl.data.features(model, net, part, cache="features") for part in cl.data.digits())
        model = cl.models.mlp(train.x.shape[1], hidden=(), n_classes=10)        # linear, on the features

    Args:
        model: The network, such as `cl.models.from_module(factory, n_classes=1000, last_layer="fc")`.
        net: Its weights. With a factory that loads pretrained ones they are `model.init(cl.key(0))`.
        dataset: The inputs, as they are: bytes are scaled to [0, 1] batch by batch.
        preprocess: A function x [n, ...] -> x [n, ...] of a batch, such as `functools.partial(torch.nn.functional.interpolate,
            size=224, mode="bilinear")`, so that images of that size are never all in memory. Row i of its result must depend on row
            i of x alone. To normalise, use `cl.models.normalized`. None by default.
        batch_size: Rows at a time, at least 1. Features do not depend on it but for rounding.
        cache: A folder, made if there is none, in which the features are kept; where they are there already, nothing is computed.
            They are found by what they are made of: the model and its weights, x and task, and `preprocess`, with the code of your
            own functions; not by the targets, nor by the version of torch. A file that is damaged or holds something else gives a
            warning, and the features are computed again. Needs safetensors. None by default.
        progress: Show a progress bar on stderr.

    Returns:
        A Dataset. It needs no gradients and may be saved, split into streams and shared by lanes as any other.

    Raises:
        TypeError: An argument is of the wrong type, `preprocess` returns no tensor, or the network returns no floating one.
        ValueError: The model gives no features, a batch comes back with another number of rows, features are not finite, or `cache`
            cannot be a folder or is given for a model whose parts cannot be compared by content.

    >>> from cl_func import models, random
    >>> from cl_func.data import digits
    >>> train, test = digits()
    >>> model = models.mlp(64, hidden=(32,), n_classes=10)
    >>> features(model, model.init(random.key(0)), test, progress=False)
    Dataset(x=float32[359, 32], y=int64[359], task=None, n_classes=10)
    """
    function = _function(model)
    checks.instance("net", net, ModelState, "the ModelState of model.init(key)")
    if any(leaf.is_meta for leaf in tree.leaves(net)):
        raise ValueError("net: it is on the device meta, which holds no values; take the weights of model.init(key).")
    checks.instance("dataset", dataset, Dataset, "a cl.Dataset; for several, call features once for each")
    if preprocess is not None:
        signatures.function("preprocess", preprocess, 1, "a function of a batch x [n, ...]")
    checks.positive_int("batch_size", batch_size)
    checks.flag("progress", progress)
    path = parts = None
    if cache is not None:
        parts = feature_cache.made_of(model=model, net=net, inputs=_inputs(dataset), preprocess=preprocess)
        path = feature_cache.path(cache, parts)
        found = feature_cache.load(path, parts, len(dataset))
        if found is not None:
            return _with(dataset, found)
    bar = ProgressBar(progress, len(dataset), "features", unit="rows")
    try:
        made = _extract(function, net, dataset, preprocess, batch_size, bar)
    finally:
        bar.close()
    if path is not None and parts is not None:
        feature_cache.save(path, parts, made)
    return _with(dataset, made)


def _function(model: Any) -> Callable[..., Tensor]:
    """The features of a model as a function (params, buffers, x, task=) of a batch."""
    if isinstance(model, PureModule):
        return partial(_output, model)
    return feature_function(model)


def _output(model: PureModule, params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, *, task: Tensor | None) -> Any:
    return model.apply(params, buffers, x)[0]


def _inputs(dataset: Dataset) -> dict[str, str]:
    """What of a dataset the features depend on, by content."""
    return {name: digest for name, digest in dataset.digests.items() if name != "y"}


def _with(dataset: Dataset, x: Tensor) -> Dataset:
    return tree.replace(dataset, x=x.to(dataset.x.device))


def _batches(dataset: Dataset, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """x as an experience gives it, and the task labels where rows have their own."""
    for start in range(0, len(dataset), batch_size):
        rows = slice(start, start + batch_size)
        task = None if dataset.task is None else dataset.task[rows].to(device)
        yield as_float(dataset.x[rows].to(device)), task


@torch.no_grad()
def _extract(
    function: Callable[..., Tensor],
    net: ModelState,
    dataset: Dataset,
    preprocess: Preprocess | None,
    batch_size: int,
    bar: ProgressBar,
) -> Tensor:
    device = next((leaf.device for leaf in tree.leaves(net)), dataset.x.device)
    made: Tensor | None = None
    done = 0
    for x, task in _batches(dataset, batch_size, device):
        n = len(x)
        x = x if preprocess is None else _preprocessed(preprocess, x)
        try:
            found = function(net.params, net.buffers, x, task=task)
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # such as out of memory
                raise
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"model: the network cannot take {describe(x)} with the weights of net: {reason}; give those of this model, of one "
                "run where there are lanes, and a preprocess that makes x what it takes."
            ) from error
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise TypeError(
                f"model: expected features as a floating tensor [n, ...], got {describe(found)}; for a module that returns "
                "something else give cl.models.pure a factory of a module that takes the features out of it."
            )
        if found.ndim < 2 or len(found) != n:
            raise ValueError(
                f"model: expected features [{n}, ...] of {n} rows, got {describe(found)}; keep rows on the first axis."
            )
        if not bool(found.isfinite().all()):
            raise ValueError(
                f"model: the features of rows {done} to {done + n - 1} are not all finite; look at these rows of the dataset, at "
                "preprocess, and at the range of the network's dtype."
            )
        if made is None:  # filled in place: a list of all batches would hold the features twice
            made = found.new_empty((len(dataset), *found.shape[1:]), device=dataset.x.device)
        made[done : done + n] = found
        done += n
        bar.update(n)
    assert made is not None  # a Dataset has rows
    return made


def _preprocessed(preprocess: Preprocess, x: Tensor) -> Tensor:
    found: Any = preprocess(x)
    if not isinstance(found, Tensor):
        raise TypeError(f"preprocess: expected it to return a tensor [{len(x)}, ...], got {describe(found)}.")
    if found.ndim == 0 or len(found) != len(x):
        raise ValueError(f"preprocess: expected it to return {len(x)} rows for {len(x)}, got {describe(found)}; keep all of them.")
    return found
