"""Text on a stream: is a review good or bad, of films, then of meals, hotels, phones and cars.

The same word praises one thing and damns another, a light meal and a light plot, so a model that goes on to the next kind unlearns
the last. The reviews are made up, from the lists of words below, since nothing is downloaded here; a seventh of their phrases says
the opposite of the label, so about 0.95 can be reached, and joint training does reach 0.94.

To use texts of your own, replace `reviews` and `tokenize`: a stream takes int64 tokens of one length, such as those of a Hugging
Face tokenizer,

    tokenizer(texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt")["input_ids"]

and a model takes them with `input_dtype=torch.int64`.

    python examples/text.py
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import cl_func as cl

# Of each kind: what is reviewed, in words of praise, in words of blame.
KINDS = {
    "films": ("plot cast ending dialogue score", "dark unpredictable moving long rich", "light predictable thin quiet sweet"),
    "meals": ("soup sauce dessert bread salad", "light hot sweet rich fresh", "dark cold thin heavy dry"),
    "hotels": ("room lobby bed pool view", "quiet large warm bright predictable", "dark small loud hot cold"),
    "phones": ("screen battery camera case speaker", "light small thin loud dry", "large hot heavy fragile rich"),
    "cars": ("engine seat brake steering gearbox", "quiet predictable heavy long cold", "light unpredictable loud moving warm"),
}
PHRASES = ("the {noun} was {word}", "what a {word} {noun}", "i found the {noun} {word}", "it has a {word} {noun}")
LENGTH = 25  # tokens of a text
WORDS = sorted({word for kind in KINDS.values() for part in (*PHRASES, *kind) for word in part.split() if word[0] != "{"})
NUMBER = {word: i for i, word in enumerate(WORDS, start=1)}  # 0 is padding


def reviews(kind: str, n: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts of three to five phrases, and whether each is good, 1, or bad, 0."""
    draw = random.Random(f"{kind} {seed}")
    nouns, *words = (part.split() for part in KINDS[kind])
    texts, labels = [], []
    for _ in range(n):
        good = draw.randrange(2)
        said = [good if draw.random() < 6 / 7 else 1 - good for _ in range(draw.randint(3, 5))]
        parts = [draw.choice(PHRASES).format(noun=draw.choice(nouns), word=draw.choice(words[1 - one])) for one in said]
        texts.append(" ".join(parts))
        labels.append(good)
    return texts, labels


def tokenize(texts: Sequence[str]) -> Tensor:
    """The number of each word, [n, LENGTH] int64; what is longer is cut off."""
    rows = [[NUMBER[word] for word in text.split() if word in NUMBER][:LENGTH] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def dataset(kind: str, n: int, seed: int) -> cl.Dataset:
    texts, labels = reviews(kind, n, seed)
    return cl.Dataset(tokenize(texts), torch.tensor(labels), n_classes=2)


class Bag(nn.Module):
    """The mean of the embeddings of a text's words, and on it a network with one hidden layer."""

    def __init__(self, n_words: int, width: int = 32, hidden: int = 64, n_classes: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_words, width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        words = (tokens > 0).to(self.embedding.weight.dtype)[..., None]
        mean = (self.embedding(tokens) * words).sum(1) / words.sum(1).clamp(min=1)
        logits: Tensor = self.out(torch.relu(self.hidden(mean)))
        return logits


def build() -> nn.Module:
    return Bag(len(WORDS) + 1)


def main() -> None:
    torch.set_num_threads(1)
    bench = cl.streams.from_datasets([(dataset(kind, 600, seed=0), dataset(kind, 500, seed=1)) for kind in KINDS])
    model = cl.models.from_module(build, n_classes=2, input_shape=(LENGTH,), last_layer="out", input_dtype=torch.int64)
    optimizer = cl.optim.adam(3e-3)
    loop: dict[str, Any] = {"batch_size": 32, "epochs": 5}
    methods = {
        "naive": cl.strategies.naive(model, optimizer, **loop),
        "EWC": cl.strategies.ewc(model, optimizer, strength=200.0, **loop),
        "ER": cl.strategies.er(model, optimizer, capacity=200, replay_size=32, **loop),
    }
    (text,), (good,) = reviews("meals", 1, seed=2)
    print(f"a {('bad', 'good')[good]} review of a meal: {text}\nas tokens: {tokenize([text])[0].tolist()}\n")
    print("method  average accuracy  forgetting")
    for name, strategy in methods.items():
        runs = cl.sweep(strategy, bench, seeds=5, lanes=5, compile=False, progress=False)
        (accuracy, spread), (forgotten, _) = (runs.mean_ci(metric) for metric in ("average_accuracy", "forgetting"))
        print(f"{name:6}  {accuracy:.3f} ± {spread:.3f}     {forgotten:.3f}")


if __name__ == "__main__":
    main()
