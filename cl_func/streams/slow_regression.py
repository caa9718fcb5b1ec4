"""The slowly changing regression problem, on which networks lose their plasticity (Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood &
Sutton, "Loss of plasticity in deep continual learning", Nature 2024).

The input has m bits: f flipping bits, which are the same for all rows of an experience, and m - f bits drawn for each row. After
each experience one of the flipping bits, chosen uniformly, changes its value. The target is a fixed network of n linear threshold
units, all of whose weights are -1 or 1, drawn once:

    y = c + sum_i v_i [ w_i . x + b_i > theta_i ],        theta_i = (m + 1) beta - S_i

with S_i the number of -1 among the m + 1 weights (w_i, b_i). (The bit that is always one, their last input, is the bias here.)

The authors' code differs from this in two ways, and the curves of its page (github.com/shibhansh/loss-of-plasticity,
lop/slowly_changing_regression) are those of the code: S_i there is the number of -1 among w_i plus b_i / 2, so that units with a
bias of -1 need two bits more; and the configuration that it names, cfg/prob.json, draws all flipping bits anew.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cl_func import checks, random
from cl_func.checks import positive_int
from cl_func.experiences import Benchmark
from cl_func.streams.generation import generated
from cl_func.tree import PyTree


def slowly_changing_regression(
    key: Tensor,
    *,
    n_experiences: int = 100,
    experience_size: int = 10_000,
    test_size: int = 1_000,
    n_inputs: int = 20,
    n_flipping: int = 15,
    n_features: int = 100,
    beta: float = 0.7,
    flips: Literal["one", "all"] = "one",
    thresholds: Literal["paper", "code"] = "paper",
) -> Benchmark:
    """Regression on inputs x [n, m] of 0 and 1, of which a few change slowly, with targets y [n, 1] float32 of a fixed network.

    The defaults are those of the paper: one of 15 bits is flipped every 10,000 rows, for 1,000,000 rows in all. Each row is seen
    once, `batch_size=1`, and the error of interest is that on rows not seen yet: the test stream has rows of the same experience.
    Rows are drawn within the step, nothing is stored. For a stream per seed give the function itself to a sweep:
    `cl.sweep(strategy, cl.streams.slowly_changing_regression)`.

    n_inputs: m. n_flipping: f, at most m. n_features: n. beta: in (0, 1), how many of its bits a unit needs to be on.
    flips: "one" of the flipping bits changes after each experience, or "all" are drawn anew, as for the authors' curves.
    thresholds: of the units, as the "paper" has them or the authors' "code".

    Reference: Dohare et al., "Loss of plasticity in deep continual learning", Nature 2024, Extended Data Fig. 2.

    Raises TypeError or ValueError for a size below 1, for more flipping bits than inputs and for a beta outside (0, 1).

    >>> bench = slowly_changing_regression(random.key(0), n_experiences=3)
    >>> bench.train[1].x.shape, bench.train[1].y.shape
    (torch.Size([10000, 20]), torch.Size([10000, 1]))
    """
    checks.key("key", key)
    positive_int("n_experiences", n_experiences)
    positive_int("n_features", n_features)
    if positive_int("n_flipping", n_flipping, least=0) > positive_int("n_inputs", n_inputs):
        raise ValueError(f"n_flipping: expected at most the {n_inputs} inputs, got {n_flipping}.")
    beta = checks.number("beta", beta, 0, 1)
    checks.choice("flips", flips, "one", "all")
    checks.choice("thresholds", thresholds, "paper", "code")
    rows, weights, outputs, start, changes = random.split(key, 5)
    hidden = _signs(weights, (1, n_features, n_inputs + 1))
    negative = (hidden < 0).sum(-1) if thresholds == "paper" else (hidden[..., :-1] < 0).sum(-1) + hidden[..., -1] / 2
    params = {
        "flipping": _flipping(start, changes, n_experiences, n_flipping)
        if flips == "one"
        else random.bernoulli(changes, 0.5, (n_experiences, n_flipping)).float(),
        "hidden": hidden,
        "threshold": (n_inputs + 1) * beta - negative,
        "output": _signs(outputs, (1, n_features + 1)),
    }
    return generated(_sample, n_experiences, train_size=experience_size, test_size=test_size, key=rows, params=params)


def _signs(key: Tensor, shape: tuple[int, ...]) -> Tensor:
    """-1 and 1 with equal chances, float32."""
    return 2.0 * random.bernoulli(key, 0.5, shape) - 1.0


def _flipping(start: Tensor, flips: Tensor, n_experiences: int, n: int) -> Tensor:
    """The flipping bits of each experience, [T, f] float32: each row differs from the one before in one bit."""
    bits = random.bernoulli(start, 0.5, (1, n))
    if n == 0 or n_experiences == 1:
        return bits.float().expand(n_experiences, n).contiguous()
    chosen = random.randint(flips, n_experiences - 1, 0, n)[:, None] == torch.arange(n, device=flips.device)
    changed = torch.cat([torch.zeros_like(chosen[:1]), chosen]).cumsum(0) % 2 == 1
    return (bits ^ changed).float()


def _sample(key: Tensor, params: PyTree) -> tuple[Tensor, Tensor]:
    """One row, (x [m], y [1])."""
    flipping, hidden, output = params["flipping"], params["hidden"], params["output"]
    x = torch.cat([flipping, random.bernoulli(key, 0.5, hidden.shape[-1] - 1 - flipping.shape[-1]).float()])
    active = (hidden[:, :-1] @ x + hidden[:, -1] > params["threshold"]).float()
    return x, (output[:-1] @ active + output[-1])[None]
