"""The works as one writes them by hand in PyTorch, eager or compiled: modules, torch.optim, a preallocated memory.

Compiled, a plain SGD step on an MLP is one program for gradient and update, the fastest of the ways tried; with Adam or batch
normalisation the loss (with its backward pass) and the optimiser's step are one program each. Drawing and inserting stay eager.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import nets
from benchmarks.protocol import arguments, serve, synchronize
from benchmarks.works import CLASSES, WORKS, Work


class Memory:
    """A reservoir: Algorithm R row by row in Python, then one write of the accepted rows."""

    def __init__(self, work: Work, device: str) -> None:
        self.x = torch.zeros(work.capacity, *work.shape, device=device)
        self.y = torch.zeros(work.capacity, dtype=torch.int64, device=device)
        self.seen = 0

    def draw(self, n: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(min(self.seen, len(self.y)), (n,), device=self.x.device)
        return self.x[rows], self.y[rows]

    def insert(self, x: Tensor, y: Tensor) -> None:
        capacity = len(self.y)
        writes: dict[int, int] = {}  # position in the memory -> row
        for row in range(len(y)):
            position = self.seen if self.seen < capacity else random.randrange(self.seen + 1)
            if position < capacity:
                writes[position] = row
            self.seen += 1
        if writes:
            positions, rows = (torch.tensor(list(numbers), device=x.device) for numbers in (writes, writes.values()))
            self.x[positions], self.y[positions] = x[rows], y[rows]


class Trainer:
    """A network, its optimiser, and the memory (ER) or the teacher (LwF) of the method."""

    def __init__(self, work: Work, compiled: bool, device: str) -> None:
        self.work, self.net = work, nets.network(work).to(device)
        self.optimizer = nets.optimizer(work, self.net)
        self.memory = Memory(work, device)
        self.teacher, self.old = copy.deepcopy(self.net), torch.zeros(CLASSES, dtype=torch.bool, device=device)
        self.loss: Callable[[Tensor, Tensor, Tensor], Tensor] = self._loss
        self.update: Callable[[], object] = self.optimizer.step
        self.learn: Callable[[Tensor, Tensor, Tensor], None] = self._learn
        if compiled and work.optimizer == "sgd" and work.widths:
            self.params = {name: value.detach() for name, value in self.net.named_parameters()}
            self.learn = torch.compile(self._learn_sgd, fullgraph=True)
        elif compiled:
            self.loss, self.update = torch.compile(self._loss), torch.compile(self.optimizer.step)

    def _loss(self, x: Tensor, y: Tensor, present: Tensor) -> Tensor:
        logits = self.net(x)
        if self.work.method != "lwf":
            return F.cross_entropy(logits, y)
        low = torch.finfo(logits.dtype).min / 2
        loss = F.cross_entropy(torch.where(present, logits, low), y)
        with torch.no_grad():
            target = torch.softmax(torch.where(self.old, self.teacher(x), low) / 2, -1)
        student = torch.log_softmax(torch.where(self.old, logits, low) / 2, -1)
        return loss + 4 * F.kl_div(student, target, reduction="batchmean")

    def _learn(self, x: Tensor, y: Tensor, present: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(x, y, present).backward()
        self.update()

    def _learn_sgd(self, x: Tensor, y: Tensor, present: Tensor) -> None:
        def loss(params: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(torch.func.functional_call(self.net, params, (x,)), y)

        for name, grad in torch.func.grad(loss)(self.params).items():
            self.params[name].sub_(grad, alpha=self.work.lr)

    def step(self, x: Tensor, y: Tensor, present: Tensor) -> None:
        """A gradient step on a minibatch and the rows replayed with it."""
        if self.work.method == "er" and self.memory.seen:
            old_x, old_y = self.memory.draw(self.work.replayed)
            x, y = torch.cat([x, old_x]), torch.cat([y, old_y])
        self.learn(x, y, present)

    def experience(self, x: Tensor, y: Tensor) -> int:
        """Train on one experience; returns the number of steps."""
        if self.work.online:
            self.step(x, y, self.old)
            self.memory.insert(x, y)
            return 1
        present = torch.zeros(CLASSES, dtype=torch.bool, device=y.device)
        present[y] = True
        order = torch.randperm(len(y), device=y.device).split(self.work.batch)
        for rows in order:
            self.step(x[rows], y[rows], present)
        if self.work.method == "er":
            self.memory.insert(x, y)
        elif self.work.method == "lwf":
            self.teacher.load_state_dict(self.net.state_dict())
            self.old |= present
        return len(order)


def main() -> None:
    """Serve one work, eager or compiled."""
    parser = arguments(__doc__)
    parser.add_argument("--mode", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--threads", type=int, help="threads within an operation (default: torch's)")
    parser.add_argument(
        "--channels-last", action="store_true", help="images and filters with their channels side by side in memory"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    work = WORKS[args.work]
    torch.manual_seed(0)
    trainer = Trainer(work, args.mode == "compiled", args.device)
    x, y = (part.to(args.device) for part in nets.data(work))
    if args.channels_last:
        x, trainer.memory.x = (part.contiguous(memory_format=torch.channels_last) for part in (x, trainer.memory.x))
        for filters in (p for p in trainer.net.parameters() if p.ndim == 4):
            filters.data = filters.data.contiguous(memory_format=torch.channels_last)
    size = work.batch if work.online else work.rows // work.experiences
    stream = itertools.cycle(list(zip(x.split(size), y.split(size), strict=True)))

    def run(n: int) -> int:
        done = 0
        while done < n:
            done += trainer.experience(*next(stream))
        synchronize(args.device)
        return done

    versions = {"torch": torch.__version__}
    serve(run, seconds=args.seconds, steps=args.steps, versions=versions, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
