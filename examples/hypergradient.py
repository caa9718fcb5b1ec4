"""Tune the strength of LwF by its hypergradient: the derivative of a whole run, all experiences, with respect to one leaf.

    python examples/hypergradient.py

A run is a pure function of its initial state, so `torch.func.jvp` differentiates it like any other function. Forward mode carries
one tangent along, so memory does not grow with the number of steps.
"""

import torch
from torch import Tensor

import cl_func as cl


def main() -> None:
    torch.set_num_threads(1)  # the net is small
    bench = cl.streams.split_by_class(*cl.data.digits(), n_experiences=5)
    bench = cl.streams.with_validation(bench, fraction=0.2, key=cl.key(7))
    model = cl.models.mlp(64, hidden=(64,), n_classes=10)
    strategy = cl.strategies.lwf(model, cl.optim.sgd(lr=0.2), batch_size=64, epochs=8)
    start = strategy.init(cl.key(0))
    valid, test = cl.evaluate(model, bench.valid), cl.evaluate(model, bench.test)

    def final_loss(log_strength: Tensor) -> tuple[Tensor, Tensor]:
        """Validation loss and test accuracy after the last experience, averaged over all experiences."""
        state = cl.fold(strategy.update, cl.tree.set(start, {"lwf.strength": log_strength.exp()}), bench.train)
        return valid(state)["loss"].mean(), test(state)["accuracy"].mean()

    log_strength = torch.tensor(6.0).log()
    print(f"{'strength':>10} {'validation loss':>16} {'slope':>10} {'test accuracy':>14}")
    for _ in range(4):
        (loss, accuracy), (slope, _) = torch.func.jvp(final_loss, (log_strength,), (torch.tensor(1.0),))[:2]
        print(f"{log_strength.exp():>10.3f} {loss:>16.3f} {slope:>10.3f} {accuracy:>14.3f}")
        log_strength = log_strength - 3 * slope.clamp(-0.3, 0.3)


if __name__ == "__main__":
    main()
