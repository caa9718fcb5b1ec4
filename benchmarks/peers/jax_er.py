"""Online ER in JAX: the whole run of all lanes is one program, jit(vmap(scan)), with its carry donated.

The random numbers of all steps are drawn at once before the scan, so that no step pays for the hash. The memory is written by one
scatter that drops the rejected rows (of two rows for one position either may win; ours keeps the last).
"""

# pyright: reportMissingImports=false
# JAX has an environment of its own (benchmarks/peers/interpreters.py).

from __future__ import annotations

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from benchmarks.protocol import arguments, serve
from benchmarks.works import CLASSES, WORKS, Work

Params = list[tuple[jax.Array, jax.Array]]
State = dict[str, Any]


def init(work: Work, key: jax.Array) -> State:
    """Weights as torch.nn.Linear draws them, an empty memory, and the key of the run."""
    params = []
    for fan_in, fan_out in zip(work.widths[:-1], work.widths[1:], strict=True):
        key, w, b = jax.random.split(key, 3)
        limit = fan_in**-0.5
        weight = jax.random.uniform(w, (fan_in, fan_out), minval=-limit, maxval=limit)
        params.append((weight, jax.random.uniform(b, (fan_out,), minval=-limit, maxval=limit)))
    memory = jnp.zeros((work.capacity, *work.shape)), jnp.zeros((work.capacity,), jnp.int32)
    return {"params": params, "memory": memory, "seen": jnp.int32(0), "key": key}


def loss(params: Params, x: jax.Array, y: jax.Array, valid: jax.Array) -> jax.Array:
    """Cross-entropy over the valid rows."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    logits = x @ params[-1][0] + params[-1][1]
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(valid, nll, 0)) / jnp.sum(valid)


def steps(work: Work, state: State, xs: jax.Array, ys: jax.Array) -> State:
    """The run of one lane over inputs [T, batch, ...] and labels [T, batch]."""

    def step(carry: Any, inputs: Any) -> tuple[Any, None]:
        params, (memory_x, memory_y), seen = carry
        x, y, replay_draw, insert_draw = inputs
        filled = jnp.minimum(seen, work.capacity)
        rows = (replay_draw * filled).astype(jnp.int32)
        valid = jnp.concatenate([jnp.ones(work.batch, bool), jnp.arange(work.replayed) < filled])
        joined = jnp.concatenate([x, memory_x[rows]]), jnp.concatenate([y, memory_y[rows]])
        grads = jax.grad(loss)(params, *joined, valid)
        params = jax.tree.map(lambda p, g: p - work.lr * g, params, grads)
        count = seen + 1 + jnp.arange(work.batch)
        position = jnp.where(count <= work.capacity, count - 1, (insert_draw * count).astype(jnp.int32))
        memory = memory_x.at[position].set(x, mode="drop"), memory_y.at[position].set(y, mode="drop")
        return (params, memory, seen + work.batch), None

    key, a, b = jax.random.split(state["key"], 3)
    draws = jax.random.uniform(a, (len(xs), work.replayed)), jax.random.uniform(b, (len(xs), work.batch))
    carry, _ = jax.lax.scan(step, (state["params"], state["memory"], state["seen"]), (xs, ys, *draws), unroll=4)
    return {"params": carry[0], "memory": carry[1], "seen": carry[2], "key": key}


def main() -> None:
    """Serve one work at one number of lanes."""
    parser = arguments(__doc__, ("B1", "B2"))
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=1, help="programs side by side, each on a thread of its own")
    args = parser.parse_args()
    work = WORKS[args.work]
    rng = np.random.default_rng(0)
    pieces = work.rows // work.batch
    data = rng.standard_normal((pieces, work.batch, *work.shape), np.float32)
    labels = (np.arange(pieces * work.batch) % CLASSES).astype(np.int32).reshape(pieces, work.batch)
    start = jax.jit(jax.vmap(lambda key: init(work, key)))
    states = [start(jax.random.split(jax.random.key(i), args.lanes)) for i in range(args.chunks)]
    pool = concurrent.futures.ThreadPoolExecutor(args.chunks)
    program = jax.jit(jax.vmap(lambda state, xs, ys: steps(work, state, xs, ys), in_axes=(0, None, None)), donate_argnums=0)
    streams: dict[int, tuple[jax.Array, jax.Array]] = {}

    def run(n: int) -> int:
        if n not in streams:
            order = np.arange(n) % pieces
            streams[n] = jnp.asarray(data[order]), jnp.asarray(labels[order])
        states[:] = pool.map(lambda state: jax.block_until_ready(program(state, *streams[n])), states)
        return n

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    serve(run, seconds=args.seconds, steps=args.steps, lanes=args.lanes * args.chunks, versions=versions)


if __name__ == "__main__":
    main()
