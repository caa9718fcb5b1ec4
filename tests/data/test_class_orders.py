"""Class orders of the literature, computed again as the code of the papers does."""

from __future__ import annotations

import numpy as np
import torch

import cl_func as cl
from cl_func.data import class_orders


def test_the_order_of_a_seed_is_numpys_and_leaves_its_generator_alone():
    before = np.random.get_state()[1].tolist()
    given = class_orders.shuffled(1000)
    assert np.random.get_state()[1].tolist() == before
    generator = np.random.RandomState(1993)
    order = np.arange(1000)
    generator.shuffle(order)
    assert given == tuple(order)
    assert given[:12] == (54, 7, 894, 512, 126, 337, 988, 11, 284, 493, 133, 783)  # PODNet's imagenet1000_1order.yaml
    assert class_orders.shuffled(100)[:12] == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89)  # its imagenet100_1order.yaml
    assert class_orders.shuffled(100)[-3:] == (49, 57, 33)


def test_icarls_order_of_cifar100_follows_from_its_seed():
    """Its loader shuffles the rows of every class with the same generator before the classes are shuffled."""
    generator = np.random.RandomState(1993)
    for _ in range(100):
        generator.shuffle(np.arange(500))
    order = np.arange(100)
    generator.shuffle(order)
    assert tuple(order) == class_orders.ICARL_CIFAR100
    assert class_orders.ICARL_CIFAR100[:10] == (87, 0, 52, 58, 44, 91, 68, 97, 51, 15)


def test_podnets_orders_are_permutations():
    first, *others = class_orders.PODNET_CIFAR100
    assert first == class_orders.ICARL_CIFAR100
    assert [sorted(order) for order in others] == [list(range(100))] * 2
    assert len(set(class_orders.PODNET_CIFAR100)) == 3


def test_a_stream_takes_them():
    data = cl.Dataset(torch.zeros(100, 2), torch.arange(100))
    bench = cl.streams.split_by_class(data, data, n_experiences=10, class_order=class_orders.ICARL_CIFAR100)
    assert bench.train[0].classes.nonzero().flatten().tolist() == sorted(class_orders.ICARL_CIFAR100[:10])
