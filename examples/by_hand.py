"""Replay and LwF written by hand: only torch.func and the library's states and memories, without compose or minibatches.

    python examples/by_hand.py

Every piece of the library works on its own. This is the method of examples/standalone.py with nothing between you and the tensors:
an nn.Module called through `functional_call`, its gradient from `torch.func.grad`, a plain loop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad

import cl_func as cl

LR, BATCH, REPLAYED, CAPACITY, TEMPERATURE = 0.1, 10, 10, 200, 2.0
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
Params = dict[str, Tensor]


@cl.state
class State:
    key: Tensor  # () int64
    params: Params
    replay: cl.memory.Reservoir
    teacher: Params
    old: Tensor  # [10] bool, the classes that the teacher knows


def loss(params: Params, state: State, x: Tensor, y: Tensor, replayed: dict[str, Tensor], valid: Tensor) -> Tensor:
    every_x, every_y = torch.cat([x, replayed["x"]]), torch.cat([y, replayed["y"]])
    weight = torch.cat([torch.ones(len(y)), valid.float()])
    logits = functional_call(net, params, (every_x,))
    task = (weight * F.cross_entropy(logits, every_y, reduction="none")).sum() / weight.sum()

    old = torch.where(state.old, 0.0, -1e9)
    teacher = torch.log_softmax(functional_call(net, state.teacher, (x,)) / TEMPERATURE + old, dim=-1)
    student = torch.log_softmax(logits[: len(y)] / TEMPERATURE + old, dim=-1)
    distillation = (teacher.exp() * (teacher - student)).sum(-1).mean() * TEMPERATURE**2
    return task + distillation * state.old.any()


def step(state: State, x: Tensor, y: Tensor) -> State:
    key, draw_key = cl.random.split(state.key)
    replayed, valid = cl.memory.reservoir.draw(state.replay, draw_key, REPLAYED)
    grads = grad(loss)(state.params, state, x, y, replayed, valid)
    params = {name: p - LR * grads[name] for name, p in state.params.items()}
    return cl.tree.replace(state, key=key, params=params)


def train(state: State, exp: cl.Experience, seen: Tensor) -> State:
    state = cl.tree.replace(state, teacher=state.params, old=seen)  # before: the teacher
    x, y = exp.x, exp.y
    for _ in range(5):  # the loop
        key, order_key = cl.random.split(state.key)
        state = cl.tree.replace(state, key=key)
        for rows in cl.random.permutation(order_key, len(y)).split(BATCH):
            state = step(state, x[rows], y[rows])
    key, add_key = cl.random.split(state.key)  # after: the memory
    replay = cl.memory.reservoir.add(state.replay, add_key, {"x": x, "y": y}, exp.valid)
    return cl.tree.replace(state, key=key, replay=replay)


def accuracy(params: Params, exp: cl.Experience) -> Tensor:
    return (functional_call(net, params, (exp.x,)).argmax(-1) == exp.y).float().mean()


def main() -> None:
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    key, init_key = cl.random.split(cl.key(0))
    params = {
        name: 0.1 * cl.random.normal(cl.random.fold_in(init_key, i), p.shape) for i, (name, p) in enumerate(net.named_parameters())
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
    R = torch.stack(timeline)  # [after experience, test experience]
    print(f"average accuracy {cl.metrics.average_accuracy(R)[-1]:.3f}, forgetting {cl.metrics.forgetting(R):.3f}")


if __name__ == "__main__":
    main()
