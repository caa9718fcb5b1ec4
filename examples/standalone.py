"""The script that started the project (Avalanche issue 1611): a whole method, its training loop and its evaluation in one file.

python examples/standalone.py [--out FOLDER]
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import cl_func as cl


@cl.state
class MyAgent(cl.Agent):
    replay: cl.memory.Reservoir | None = None
    reg_loss: cl.regularizers.LwF | None = None


model = cl.models.mlp(64, hidden=(128, 128), n_classes=10)
optimizer = cl.optim.sgd(lr=0.1)
loss = cl.losses.total(
    cl.losses.with_replay(cl.losses.cross_entropy(model), n=10, slot="replay"),
    cl.regularizers.lwf.distillation(model, slot="reg_loss"),
)
# The experiences of the online stream are a few rows long, so the teacher is replaced only when new classes arrive.
new_classes = cl.regularizers.lwf.new_classes(slot="reg_loss")
pre_update = cl.when(new_classes, cl.regularizers.lwf.snapshot(slot="reg_loss"))
training_loop = cl.minibatches(cl.train_step(loss, optimizer), batch_size=10, epochs=3)
post_update = cl.compose(cl.memory.reservoir.insert(slot="replay"), cl.optim.exponential_decay(0.995))


def my_cool_method(exp: cl.Experience, agent: MyAgent) -> MyAgent:
    # partial initialisation: fills only what is None; the optimiser depends on the model and comes after it
    agent = cl.maybe_init(
        agent,
        replay=lambda a: cl.memory.reservoir.init(200, cl.memory.sample(model)),
        model=lambda a: model.init(cl.random.fold_in(a.key, 0)),
        reg_loss=lambda a: cl.regularizers.lwf.init(a.model, n_classes=10, strength=0.5),
        opt=lambda a: optimizer.init(a.model.params),
    )
    agent = pre_update(agent, exp)
    agent = training_loop(agent, exp)
    return post_update(agent, exp)


@torch.no_grad()
def my_eval(stream: cl.Stream, agent: MyAgent, metrics: dict) -> None:
    for exp in stream:
        logits, _ = model.apply(agent.model.params, agent.model.buffers, exp.x, train=False)
        for metric, values in metrics.items():
            values.append(metric(logits, exp.y))


def accuracy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (logits.argmax(-1) == y).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("out/standalone"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    ocl_stream = cl.streams.split_online(bench, experience_size=20).train
    agent = MyAgent(key=cl.key(0))
    train_metrics: dict = {accuracy: [], torch.nn.functional.cross_entropy: []}
    test_metrics: dict = {accuracy: [], torch.nn.functional.cross_entropy: []}
    for exp in ocl_stream:
        agent = my_cool_method(exp, agent)
        my_eval(bench.train, agent, train_metrics)
        my_eval(bench.test, agent, test_metrics)

    train_accuracy, acc_timeline = (torch.stack(m[accuracy]).view(-1, 5) for m in (train_metrics, test_metrics))
    print(f"average accuracy: train {train_accuracy[-1].mean():.3f}, test {acc_timeline[-1].mean():.3f}")
    ends = [max(i for i, exp in enumerate(ocl_stream) if exp.classes.equal(parent.classes)) for parent in bench.train]

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(acc_timeline, label=[f"test experience {j + 1}" for j in range(5)])
    left.set(xlabel="online experiences trained on", ylabel="accuracy", title="accuracy timeline")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    cl.plots.forgetting_matrix(acc_timeline[ends], ax=right)
    figure.savefig(out / "standalone.png", dpi=150)


if __name__ == "__main__":
    main()
