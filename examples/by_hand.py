"""Replay and LwF written by hand: only torch.func and the library's state and memory pieces, no compose, no minibatches.

    python examples/by_hand.py

Every piece of the library works alone. This is the method of examples/standalone.py with nothing between you and the tensors:
an nn.Module called through `functional_call`, its gradient from `torch.func.grad`, a plain loop.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

import cl_func as cl

LR, BATCH, REPLAYED, CAPACITY, TEMPERATURE = 0.1, 10, 10, 200, 2.0
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


@cl.state
class State:
    key: torch.Tensor  # () int64
    params: dict
    replay: cl.memory.Reservoir
    teacher: dict
    old: torch.Tensor  # [10] bool, the classes that the teacher knows


def loss(params, state, x, y, replayed, valid):
    every_x, every_y = torch.cat([x, replayed["x"]]), torch.cat([y, replayed["y"]])
    weight = torch.cat([torch.ones(len(y)), valid.float()])
    logits = functional_call(net, params, (every_x,))
    task = (weight * F.cross_entropy(logits, every_y, reduction="none")).sum() / weight.sum()

    old = torch.where(state.old, 0.0, -1e9)
    teacher = torch.log_softmax(functional_call(net, state.teacher, (x,)) / TEMPERATURE + old, dim=-1)
    student = torch.log_softmax(logits[: len(y)] / TEMPERATURE + old, dim=-1)
    kept = (teacher.exp() * (teacher - student)).sum(-1).mean() * TEMPERATURE**2
    return task + kept * state.old.any()


def step(state, x, y):
    key, draw = cl.random.split(state.key)
    replayed, valid = cl.memory.reservoir.draw(state.replay, draw, REPLAYED)
    grads = grad(loss)(state.params, state, x, y, replayed, valid)
    params = {name: p - LR * grads[name] for name, p in state.params.items()}
    return state.replace(key=key, params=params)


def train(state, exp, seen):
    state = state.replace(teacher=state.params, old=seen)  # before: the teacher
    x, y = exp.x, exp.y
    for _ in range(5):  # the loop
        key, order = cl.random.split(state.key)
        state = state.replace(key=key)
        for rows in cl.random.permutation(order, len(y)).split(BATCH):
            state = step(state, x[rows], y[rows])
    key, draw = cl.random.split(state.key)  # after: the memory
    rows = {"x": x, "y": y}
    return state.replace(key=key, replay=cl.memory.reservoir.add(state.replay, draw, rows, exp.valid))


def accuracy(params, exp):
    return (functional_call(net, params, (exp.x,)).argmax(-1) == exp.y).float().mean()


def main():
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    key, weights = cl.random.split(cl.key(0))
    params = {
        name: 0.1 * cl.random.normal(cl.random.fold_in(weights, i), p.shape) for i, (name, p) in enumerate(net.named_parameters())
    }
    empty = cl.memory.reservoir.init(CAPACITY, {"x": torch.zeros(64), "y": torch.tensor(0)})
    state = State(key=key, params=params, replay=empty, teacher=params, old=torch.zeros(10, dtype=torch.bool))
    seen = torch.zeros(10, dtype=torch.bool)
    timeline = []
    for exp in bench.train:
        state = train(state, exp, seen)
        seen = seen | exp.classes
        timeline.append(torch.stack([accuracy(state.params, test) for test in bench.test]))
        print(f"after experience {len(timeline) - 1}:", " ".join(f"{a:.2f}" for a in timeline[-1]))
    accuracies = torch.stack(timeline)
    print(f"average accuracy {cl.metrics.average_accuracy(accuracies)[-1]:.3f}, forgetting {cl.metrics.forgetting(accuracies):.3f}")


if __name__ == "__main__":
    main()
