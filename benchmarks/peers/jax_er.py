"""Online ER in JAX: the whole run of all lanes is one program, jit(vmap(scan)), with its carry donated.

Draws are made for all steps at once before the scan, which takes the hash off the step; the memory is written by one scatter that
drops the rows not accepted (of two rows for one place either may stay; a scatter of ours keeps the last).
"""

from __future__ import annotations

import concurrent.futures

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from benchmarks.protocol import arguments, serve
from benchmarks.works import CLASSES, WORKS, Work


def init(work: Work, key):
    """Weights as torch.nn.Linear draws them, an empty memory, and the key of the run."""
    params = []
    for fan_in, fan_out in zip(work.widths[:-1], work.widths[1:], strict=True):
        key, w, b = jax.random.split(key, 3)
        limit = fan_in**-0.5
        weight = jax.random.uniform(w, (fan_in, fan_out), minval=-limit, maxval=limit)
        params.append((weight, jax.random.uniform(b, (fan_out,), minval=-limit, maxval=limit)))
    memory = jnp.zeros((work.capacity, *work.shape)), jnp.zeros((work.capacity,), jnp.int32)
    return {"params": params, "memory": memory, "seen": jnp.int32(0), "key": key}


def loss(params, x, y, valid):
    """Cross-entropy over the valid rows."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    logits = x @ params[-1][0] + params[-1][1]
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(valid, nll, 0)) / jnp.sum(valid)


def steps(work: Work, state, xs, ys):
    """One lane's run over [T, batch, ...] inputs and [T, batch] labels."""

    def step(carry, inputs):
        params, (memory_x, memory_y), seen = carry
        x, y, u_replay, u_place = inputs
        filled = jnp.minimum(seen, work.capacity)
        rows = (u_replay * filled).astype(jnp.int32)
        valid = jnp.concatenate([jnp.ones(work.batch, bool), jnp.arange(work.replayed) < filled])
        joined = jnp.concatenate([x, memory_x[rows]]), jnp.concatenate([y, memory_y[rows]])
        grads = jax.grad(loss)(params, *joined, valid)
        params = jax.tree.map(lambda p, g: p - work.lr * g, params, grads)
        turn = seen + 1 + jnp.arange(work.batch)
        place = jnp.where(turn <= work.capacity, turn - 1, (u_place * turn).astype(jnp.int32))
        memory = memory_x.at[place].set(x, mode="drop"), memory_y.at[place].set(y, mode="drop")
        return (params, memory, seen + work.batch), None

    key, a, b = jax.random.split(state["key"], 3)
    draws = jax.random.uniform(a, (len(xs), work.replayed)), jax.random.uniform(b, (len(xs), work.batch))
    carry, _ = jax.lax.scan(step, (state["params"], state["memory"], state["seen"]), (xs, ys, *draws), unroll=4)
    return {"params": carry[0], "memory": carry[1], "seen": carry[2], "key": key}


def main() -> None:
    """Serve one work at one number of lanes."""
    parser = arguments(__doc__.splitlines()[0], ("B1", "B2"))
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--chunks", type=int, default=1, help="so many programs side by side, a thread each")
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
    at = 0
    streams: dict[int, tuple[jax.Array, jax.Array]] = {}

    def run(n: int) -> int:
        if n not in streams:
            order = np.arange(at, at + n) % pieces
            streams[n] = jnp.asarray(data[order]), jnp.asarray(labels[order])
        states[:] = pool.map(lambda state: jax.block_until_ready(program(state, *streams[n])), states)
        return n

    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
    serve(run, seconds=args.seconds, steps=args.steps, lanes=args.lanes * args.chunks, versions=versions)


if __name__ == "__main__":
    main()
