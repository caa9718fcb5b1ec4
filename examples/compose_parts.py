"""A method that no paper has, composed of parts of three: DER++, LwF and gradient clipping, against the methods it is made of.

    python examples/compose_parts.py

A method is a state with a slot for each part, a loss that is a sum of losses, transforms of its gradient, and updates before, in
and after the training loop. To exchange a part is to exchange a line. Class-incremental Split-Digits, five seeds in lanes.
"""

import torch

import cl_func as cl


@cl.state
class Mine(cl.Agent):
    replay: cl.memory.Reservoir  # rows with the logits they had
    lwf: cl.regularizers.LwF


def mine(model, optimizer, *, capacity, replay_size, batch_size, epochs):
    def init(key):
        key, weights = cl.random.split(key)
        net = model.init(weights)
        replay = cl.memory.reservoir.init(capacity, cl.memory.dark.sample(model))
        lwf = cl.regularizers.lwf.init(net, model.n_classes, strength=0.1)
        return Mine(key=key, model=net, opt=optimizer.init(net.params), replay=replay, lwf=lwf)

    ce = cl.losses.cross_entropy(model)
    loss = cl.losses.total(
        ce,
        cl.losses.scaled(cl.losses.dark_experience(model, replay_size), 0.3),  # DER: the logits of old rows
        cl.losses.scaled(cl.losses.replayed(ce, replay_size), 1.0),  # the ++: their labels
        cl.regularizers.lwf.distillation(model),  # LwF: the teacher's answers on the new rows
    )
    step = cl.compose(
        cl.train_step(loss, optimizer, cl.optim.clip_by_global_norm(2.0)),
        cl.memory.reservoir.insert(fields=cl.memory.dark.fields(model)),
    )
    loop = cl.minibatches(step, batch_size=batch_size, epochs=epochs)
    return cl.Strategy(init, cl.compose(cl.regularizers.lwf.snapshot(), loop), model)


def main():
    torch.set_num_threads(1)
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    model = cl.models.mlp(64, hidden=(128,), n_classes=10)
    optimizer = cl.optim.sgd(lr=0.05, momentum=0.9)
    memory, loop = {"capacity": 100, "replay_size": 32}, {"batch_size": 32, "epochs": 3}
    methods = {
        "LwF": cl.strategies.lwf(model, optimizer, **loop),
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
        forgetting, other = cl.metrics.mean_ci(cl.metrics.forgetting(R))
        print(f"{name:<8} {average:>9.3f} ± {half:.3f} {forgetting:>9.3f} ± {other:.3f}")


if __name__ == "__main__":
    main()
