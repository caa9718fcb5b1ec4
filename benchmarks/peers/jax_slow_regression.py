"""SGD on one example at a time in JAX, 20-5-1: all lanes and all steps are one program, jit(vmap(scan)), its carry donated.

Each step adds the squared error of its example, before it is trained on, to a sum, and an epoch goes through the rows in an order
that is drawn anew, as ours does.
"""

# pyright: reportMissingImports=false
# JAX has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from benchmarks.protocol import serve

EXAMPLES, FEATURES, HIDDEN, LR = 10_000, 20, 5, 0.01


def init(key: jax.Array) -> Any:
    """Weights as torch.nn.Linear draws them, the sum of the errors, and the key of the run."""
    key, a, b, c, d = jax.random.split(key, 5)
    first, second = FEATURES**-0.5, HIDDEN**-0.5
    uniform = jax.random.uniform
    params = (
        uniform(a, (FEATURES, HIDDEN), minval=-first, maxval=first),
        uniform(b, (HIDDEN,), minval=-first, maxval=first),
        uniform(c, (HIDDEN, 1), minval=-second, maxval=second),
        uniform(d, (1,), minval=-second, maxval=second),
    )
    return params, jnp.float32(0), key


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """The squared error of one example."""
    hidden = jax.nn.relu(x @ params[0] + params[1])
    return jnp.square((hidden @ params[2] + params[3])[0] - y)


def epoch(state: Any, xs: jax.Array, ys: jax.Array) -> Any:
    """One lane through all its rows, [n, features] and [n]."""
    params, total, key = state
    key, draw_key = jax.random.split(key)
    order = jax.random.permutation(draw_key, EXAMPLES)

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        params, total = carry
        error, grads = jax.value_and_grad(loss)(params, *inputs)
        return (jax.tree.map(lambda p, g: p - LR * g, params, grads), total + error), None

    (params, total), _ = jax.lax.scan(step, (params, total), (xs[order], ys[order]), unroll=4)
    return params, total, key


def main() -> None:
    """Serve a number of lanes; a step is one example of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one repetition")
    args = parser.parse_args()
    xs = jax.random.normal(jax.random.key(0), (args.lanes, EXAMPLES, FEATURES))
    ys = jnp.abs(xs).sum(2) / 10
    state = jax.jit(jax.vmap(init))(jax.random.split(jax.random.key(1), args.lanes))
    program = jax.jit(jax.vmap(epoch), donate_argnums=0)

    def run(n: int) -> int:
        nonlocal state
        count = -(-n // EXAMPLES)
        for _ in range(count):
            state = program(state, xs, ys)
        jax.block_until_ready(state)
        return count * EXAMPLES

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    serve(run, seconds=args.seconds, steps=None, lanes=args.lanes, versions=versions)


if __name__ == "__main__":
    main()
