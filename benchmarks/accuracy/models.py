"""python -m benchmarks.accuracy.models [NAME ...] [--out FOLDER]: modules of other libraries as models, and what works of them.

Each module is made by `from_module` from its library's own class with random weights (nothing is downloaded) and taken through:

    eager       logits in evaluation, and without dropout in training too, are the module's own with the same weights, as are the
                statistics of its batch norms; a training step is finite
    vmapped     two lanes of a training step are the steps of the single runs (float64), and so are their logits in evaluation;
                "row by row": operations for which torch has no batching rule, so that it runs them lane by lane
    compiled    a compiled training step is the eager one (float32; where rounding makes more than 1e-3 of it, float64)
    fresh       newly drawn parameters, of which none is the old one where `init` draws
    hidden      the number of layers with hidden activations

Every module has a process of its own. Needs torchvision, timm and transformers; a module whose library is missing is left out.
"""

# torchvision, timm and transformers are not in the environment of the types.
# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cl_func as cl
from benchmarks import machine
from benchmarks import results as results_file
from cl_func.experiences import Experience
from cl_func.experiences import experience as make_experience
from cl_func.models import BatchNorm, KeyedLayer

RESULTS = Path(__file__).resolve().parent.parent.parent / "docs" / "results" / "models"
ROWS, CLASSES = 4, 10
CHECKS = ("eager", "vmapped", "compiled", "fresh", "hidden")
VALUES = {"float32": 1e-3, "float64": 1e-8}  # how far a step may differ from another, relative to its length


@dataclass(frozen=True)
class Entry:
    """A module to try: its library, what builds it, and what else `from_module` is told."""

    library: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    more: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    import torchvision

    module: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=CLASSES, **arguments)
    return module


def _timm(name: str, **arguments: Any) -> nn.Module:
    import timm

    module: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **arguments)
    return module


def _bert(attention_dropout: float) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        num_labels=CLASSES,
        attention_probs_dropout_prob=attention_dropout,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config)


def _masked(module: Any, x: Tensor) -> Tensor:
    """With the mask that transformers makes of one [n, T]; it asks whether all of it is 1, a value that no trace has."""
    logits: Tensor = module(input_ids=x, attention_mask=(x != 0).long()).logits
    return logits


def _bert_logits(module: Any, x: Tensor) -> Tensor:
    """With a mask [n, 1, 1, T] that is added to the attention's logits as it is."""
    mask = torch.where((x != 0)[:, None, None], 0.0, -1e9).to(module.dtype)
    logits: Tensor = module(input_ids=x, attention_mask=mask).logits
    return logits


class LSTMClassifier(nn.Module):
    """Tokens to an embedding, an LSTM, and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(1000, 32), nn.LSTM(32, 64, batch_first=True)
        self.dropout, self.out = nn.Dropout(0.1), nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(self.dropout(self.lstm(self.embedding(x))[0][:, -1]))
        return logits


class UnrolledLSTM(nn.Module):
    """The same function as a one-layer nn.LSTM with batch_first, its tensors by the same names, of operations that vmap knows."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        for name, value in layer.named_parameters():
            self.register_parameter(name, value)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        inputs = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        h = c = x.new_zeros(x.shape[0], self.weight_hh_l0.shape[1])
        outputs = []
        for step in inputs.unbind(1):
            i, f, g, o = (step + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


TEXT = {"input_dtype": torch.int64}
ENTRIES = {
    "resnet18": Entry("torchvision", partial(_torchvision, "resnet18"), (3, 64, 64), {"last_layer": "fc"}),
    "resnet50": Entry("torchvision", partial(_torchvision, "resnet50"), (3, 64, 64), {"last_layer": "fc"}),
    "efficientnet_b0": Entry("torchvision", partial(_torchvision, "efficientnet_b0"), (3, 64, 64)),
    "convnext_tiny": Entry("torchvision", partial(_torchvision, "convnext_tiny"), (3, 64, 64)),
    "vit_b_16, 64 x 64": Entry("torchvision", partial(_torchvision, "vit_b_16", image_size=64), (3, 64, 64)),
    "vit_tiny_patch16_224, 64 x 64": Entry(
        "timm", partial(_timm, "vit_tiny_patch16_224", img_size=64, drop_path_rate=0.1, proj_drop_rate=0.1), (3, 64, 64)
    ),
    "regnety_002": Entry("timm", partial(_timm, "regnety_002"), (3, 64, 64)),
    "BertForSequenceClassification": Entry(
        "transformers",
        partial(_bert, 0.0),
        (16,),
        {"forward": _bert_logits, **TEXT},
        "2 layers of 128; the dropout of its attention set to 0, its mask given as [n, 1, 1, T], see `_bert_logits`",
    ),
    "the same with a mask [n, T]": Entry("transformers", partial(_bert, 0.0), (16,), {"forward": _masked, **TEXT}),
    "the same with dropout in its attention": Entry("transformers", partial(_bert, 0.1), (16,), {"forward": _bert_logits, **TEXT}),
    "LSTM classifier": Entry("torch", LSTMClassifier, (16,), {"last_layer": "out", **TEXT}),
    "the same, unrolled": Entry(
        "torch",
        LSTMClassifier,
        (16,),
        {"last_layer": "out", "replace": {nn.LSTM: UnrolledLSTM}, **TEXT},
        "`replace={nn.LSTM: UnrolledLSTM}` of `benchmarks/accuracy/models.py`",
    ),
}


def experience(entry: Entry, dtype: torch.dtype) -> Experience:
    if "input_dtype" in entry.more:
        x = cl.random.randint(cl.key(1), (ROWS, *entry.shape), 1, 1000)
    else:
        x = cl.random.normal(cl.key(1), (ROWS, *entry.shape), torch.float64).to(dtype)
    return make_experience(cl.Dataset(x, torch.arange(ROWS), n_classes=CLASSES))


def moved(model: cl.models.Model, seed: int) -> cl.models.ModelState:
    """New weights, a little away from where they begin: some heads begin at 0, and then all logits are equal."""
    net = model.init(cl.key(seed))
    keys = cl.random.split(cl.key(seed + 100), len(net.params))
    params = {name: p + 0.01 * cl.random.normal(k, tuple(p.shape)) for k, (name, p) in zip(keys, net.params.items(), strict=True)}
    return cl.tree.replace(net, params=params)


def started(model: cl.models.Model, seed: int, dtype: torch.dtype) -> cl.Agent:
    net = cl.tree.map(lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, moved(model, seed))
    return cl.Agent(key=cl.key(0), model=net, opt=cl.optim.sgd(0.01).init(net.params))


def distance(one: Any, other: Any, begin: Any) -> float:
    """How far two steps from one state lie apart, relative to the length of the second."""
    ends = [torch.cat([p.flatten().double() for p in state.model.params.values()]) for state in (one, other, begin)]
    return float((ends[0] - ends[1]).norm() / (ends[1] - ends[2]).norm())


def near(found: float, dtype: str, what: str) -> str:
    if not found <= VALUES[dtype]:
        raise AssertionError(f"{what}: differs by {found:.1e}")
    return f"{found:.0e}"


class Trial:
    """The checks of one module; each returns what the table shows, or raises."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.model = cl.models.from_module(entry.make, n_classes=CLASSES, input_shape=entry.shape, **entry.more)
        self.step = cl.train_step(cl.losses.cross_entropy(self.model), cl.optim.sgd(0.01))
        template = self.model.apply.args[0].templates[True]  # type: ignore[attr-defined]
        self.norms = sum(isinstance(layer, BatchNorm) for layer in template.modules())
        self.keyed = sum(isinstance(layer, KeyedLayer) and getattr(layer, "p", 0) > 0 for layer in template.modules())

    def eager(self) -> str:
        net, exp = moved(self.model, 3), experience(self.entry, torch.float32)
        plain = self.entry.make()
        tensors = net.params | net.buffers
        plain.load_state_dict({name: tensors[name] for name in plain.state_dict() if name in tensors}, strict=False)
        call = self.entry.more.get("forward") or (lambda module, x: module(x))
        far = 0.0
        for train in (False, True) if self.keyed == 0 else (False,):
            logits, buffers = self.model.apply(net.params, net.buffers, exp.x, train=train)
            with torch.no_grad():
                want = call(plain.train(train), exp.x)
            apart = [float((logits - want).norm() / want.norm())]
            for name, value in plain.named_buffers():
                if value.is_floating_point() and name in buffers:
                    apart.append(float((buffers[name] - value).norm() / value.norm().clamp(min=1e-6)))
            far = max(far, *apart) if all(map(math.isfinite, apart)) else math.nan
        state = started(self.model, 3, torch.float32)
        after = self.step(state, exp)
        if not all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(after)):
            raise AssertionError("a step is not finite")
        if self.keyed:
            keys = [name for name in net.buffers if name.endswith("key")]
            buffers = self.model.apply(net.params, net.buffers, exp.x, train=True)[1]
            if all(torch.equal(buffers[name], net.buffers[name]) for name in keys):
                raise AssertionError("no key has moved")
        return near(far, "float32", "logits or statistics")

    def vmapped(self) -> str:
        x = experience(self.entry, torch.float32).x
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            ends = {}
            for dtype in (torch.float32, torch.float64):
                exp, states = experience(self.entry, dtype), [started(self.model, seed, dtype) for seed in (3, 4)]
                ends[dtype] = cl.tree.unstack(cl.vmap(self.step)(cl.tree.stack(states), exp))
            nets = [moved(self.model, seed) for seed in (3, 4)]
            logits = torch.func.vmap(lambda net: self.model.apply(net.params, net.buffers, x)[0])(cl.tree.stack(nets))
        if not all(bool(leaf.isfinite().all()) for leaf in cl.tree.leaves(ends[torch.float32])):
            raise AssertionError("a step is not finite")
        far = max(distance(lane, self.step(state, exp), state) for lane, state in zip(ends[torch.float64], states, strict=True))
        for net, found in zip(nets, logits, strict=True):
            want = self.model.apply(net.params, net.buffers, x)[0]
            near(float((found - want).norm() / want.norm()), "float32", "logits of a lane in evaluation")
        slow = sorted({name for one in told for name in re.findall(r"batching rule for ([\w:]+)", str(one.message))})
        return near(far, "float64", "a lane") + (f", row by row: {', '.join(slow)}" if slow else "")

    def compiled(self) -> str:
        begin, told = time.perf_counter(), ""
        for dtype in (torch.float32, torch.float64):  # in the second rounding is no excuse
            exp, state = experience(self.entry, dtype), started(self.model, 3, dtype)
            far = distance(cl.compile(self.step)(state, exp), self.step(state, exp), state)
            if far <= VALUES["float32"]:
                return f"{told}{far:.0e}, in {time.perf_counter() - begin:.0f} s"
            told = f"{far:.0e} in float32; in float64 "
        raise AssertionError(f"a compiled step: differs by {told}{far:.0e}")

    def fresh(self) -> str:
        params = self.model.init(cl.key(3)).params
        other, drawn = self.model.init(cl.key(4)).params, cl.models.fresh_function(self.model)(cl.key(4), params)
        for name, value in params.items():
            changed = float((drawn[name] - value).norm()) > 0
            if changed != (float((other[name] - value).norm()) > 0):
                raise AssertionError(f"{name}: {'drawn' if changed else 'not drawn'} unlike in init")
            if changed and value.numel() > 1000 and abs(math.log(float(drawn[name].std() / other[name].std()))) > 0.1:
                raise AssertionError(f"{name}: drawn with another deviation than in init")
        return "yes"

    def hidden(self) -> str:
        found = cl.models.activations(self.model, self.model.init(cl.key(3)), experience(self.entry, torch.float32))
        return str(len(found))


def same_as_torchvision() -> str:
    """How far `cl.models.resnet18` lies from torchvision's with the same weights, in a sentence."""
    plain, model = _torchvision("resnet18").train(), cl.models.resnet18(CLASSES, stem="imagenet", input_shape=(3, 64, 64))
    tensors = {name: value.clone() for name, value in plain.state_dict().items()}
    net = model.init(cl.key(0))
    params, buffers = ({name: tensors[name] for name in part} for part in (net.params, net.buffers))
    x = cl.random.normal(cl.key(1), (ROWS, 3, 64, 64))
    with torch.no_grad():
        far = [(model.apply(params, buffers, x, train=train)[0] - plain.train(train)(x)).abs().max() for train in (False, True)]
    return (
        f'`cl.models.resnet18(stem="imagenet")` with the weights and names of torchvision\'s resnet18: logits differ by at most '
        f"{far[0]:.0e} in evaluation and {far[1]:.0e} in training."
    )


def work(name: str, checks: list[str]) -> None:
    """Try one module, in a process of its own: a line of JSON for each thing found."""
    entry = ENTRIES[name]

    def tell(**found: Any) -> None:
        print(json.dumps(found), flush=True)

    try:
        trial = Trial(entry)
    except Exception as error:
        tell(refused=_reason(error))
        return
    params = trial.model.init(cl.key(0)).params
    tell(parameters=sum(p.numel() for p in params.values()), norms=trial.norms, keyed=trial.keyed)
    for check in checks:
        try:
            tell(**{check: getattr(trial, check)()})
        except Exception as error:
            tell(**{check: f"no: {_reason(error)}"})


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}{'...' if len(text) > 400 else ''}"


def tried(name: str, checks: list[str], limit: float) -> dict[str, Any]:
    """What was found of one module; what took longer than the limit says so."""
    command = [sys.executable, "-m", "benchmarks.accuracy.models", "--work", name, "--checks", *checks]
    found: dict[str, Any] = {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err = f"longer than {limit:.0f} s"
    for line in out.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    if "refused" not in found:
        missing = next((check for check in checks if check not in found), None)
        if missing is not None:
            found[missing] = f"no: {err.strip().splitlines()[-1] if err.strip() else f'exit {process.returncode}'}"
    return found


def page(results: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Modules of other libraries",
        "",
        "`python -m benchmarks.accuracy.models`, which says what each column means: a number is how far logits or a training "
        "step differ, relative to their length, from what they are compared with. Weights are random, images are 64 x 64, a "
        f"step has {ROWS} rows. Times of compilation were taken under load.",
        "",
        *(f"- {name}: {value}" for name, value in results["facts"].items()),
        "",
        "| module | parameters | batch norms | keyed layers | eager | vmapped | compiled | fresh | hidden |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for name, found in results["modules"].items():
        entry = ENTRIES[name]
        cells = [f"{entry.library}: {name}"]
        if entry.note:
            notes.append(f"{name}: {entry.note}.")
        if "refused" in found:
            notes.append(f"{name}: refused. {found['refused']}")
            lines.append(f"| {cells[0]} | | | | refused | | | | |")
            continue
        cells += [f"{found['parameters']:,}", str(found["norms"]), str(found["keyed"])]
        for check in CHECKS:
            value = found.get(check, "not tried")
            if value.startswith("no: "):
                notes.append(f"{name}, {check}: {value[4:]}")
                value = "no"
            cells.append(value)
        lines.append(f"| {' | '.join(cells)} |")
    words = results.get("words", "")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), *(["", words] if words else []), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="some of the modules, all of them by default; others are kept as they are")
    parser.add_argument("--checks", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one module")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.checks)
        return
    file = given.out / "models.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"modules": {}}
    libraries = ("torch", "torchvision", "timm", "transformers")
    versions = {name: importlib.metadata.version(name) for name in libraries if importlib.util.find_spec(name)}
    results["facts"] = {**machine.describe(), **versions}
    for name in given.names or ENTRIES:
        if ENTRIES[name].library not in versions:
            print(f"{name}: {ENTRIES[name].library} is not installed", flush=True)
            continue
        results["modules"][name] = {**results["modules"].get(name, {}), **tried(name, given.checks, given.limit)}
        print(name, results["modules"][name], flush=True)
        ordered = {entry: results["modules"][entry] for entry in ENTRIES if entry in results["modules"]}
        results["modules"] = ordered
        if "torchvision" in versions:
            results["words"] = same_as_torchvision()
        results_file.write(file, results)
        (given.out / "models.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
