"""A method from no paper, composed of parts of three, DER++, A-GEM's projection and EWC, and compared with them.

    python examples/compose_parts.py

A method is a state with a slot for each part, a loss that is a sum of losses, transforms of its gradient, and updates before, in
and after the training loop. To exchange a part, exchange a line. Class-incremental Split-Digits, five seeds in lanes.
"""

from typing import Any

import torch
from torch import Tensor

import cl_func as cl


@cl.state
class Mine(cl.Agent):
    replay: cl.memory.Reservoir  # rows with the logits that they had when stored
    ewc: cl.regularizers.EWC


def mine(
    model: cl.models.Model, optimizer: cl.core.Optimizer, *, capacity: int, replay_size: int, batch_size: int, epochs: int
) -> cl.Strategy:
    def init(key: Tensor) -> Mine:
        key, init_key = cl.random.split(key)
        net = model.init(init_key)
        replay = cl.memory.reservoir.init(capacity, cl.memory.dark.sample(model))
        ewc = cl.regularizers.ewc.init(net.params, strength=1.0)
        return Mine(key=key, model=net, opt=optimizer.init(net.params), replay=replay, ewc=ewc)

    ce = cl.losses.cross_entropy(model)
    loss = cl.losses.total(
        ce,
        cl.losses.scaled(cl.losses.dark_experience(model, replay_size), 0.3),  # DER: the logits of old rows
        cl.losses.scaled(cl.losses.replayed(ce, replay_size), 1.0),  # the ++: their labels
        cl.regularizers.quadratic.loss("ewc"),  # EWC: the parameters that old answers depend on
    )
    step = cl.compose(
        cl.train_step(loss, optimizer, cl.projections.agem.project(ce, replay_size)),  # A-GEM: the loss on old rows must not rise
        cl.memory.reservoir.insert(fields=cl.memory.dark.fields(model)),
    )
    loop = cl.minibatches(step, batch_size=batch_size, epochs=epochs)
    return cl.Strategy(init, cl.compose(loop, cl.regularizers.ewc.consolidate(model, batch_size=batch_size)), model)


def main() -> None:
    torch.set_num_threads(1)
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    model = cl.models.mlp(64, hidden=(128,), n_classes=10)
    optimizer = cl.optim.sgd(lr=0.05, momentum=0.9)
    memory: dict[str, Any] = {"capacity": 100, "replay_size": 32}
    loop: dict[str, Any] = {"batch_size": 32, "epochs": 3}
    methods = {
        "EWC": cl.strategies.ewc(model, optimizer, strength=1.0, **loop),
        "A-GEM": cl.strategies.agem(model, optimizer, capacity=100, sample_size=32, **loop),
        "ER": cl.strategies.er(model, optimizer, **memory, **loop),
        "DER++": cl.strategies.der_pp(model, optimizer, alpha=0.3, beta=1.0, **memory, **loop),
        "mine": mine(model, optimizer, **memory, **loop),
    }
    probe = cl.vmap(cl.evaluate(model, bench.test))
    print(f"{'method':<8} {'average accuracy':>17} {'forgetting':>17}")
    for name, strategy in methods.items():
        states = cl.tree.stack([strategy.init(cl.key(seed)) for seed in range(5)])
        _, history = cl.scan(cl.vmap(strategy.update), states, bench.train, probe)
        R = history["accuracy"].transpose(0, 1)  # [seed, after experience, test experience]
        average, half = cl.metrics.mean_ci(cl.metrics.average_accuracy(R)[:, -1])
        forgetting, forgetting_half = cl.metrics.mean_ci(cl.metrics.forgetting(R))
        print(f"{name:<8} {average:>9.3f} ± {half:.3f} {forgetting:>9.3f} ± {forgetting_half:.3f}")


if __name__ == "__main__":
    main()
