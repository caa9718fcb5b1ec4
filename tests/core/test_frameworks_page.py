"""docs/frameworks.md: a plain loop with an optimiser of torch takes the steps that ours takes."""

import pages
import torch

import cl_func as cl

PAGE = "frameworks.md"


def test_the_plain_loop_is_the_loop_of_the_library():
    (block,) = pages.blocks(PAGE)
    names = {"__name__": "page"}
    torch.manual_seed(0)
    pages.run(PAGE, block, names)

    torch.manual_seed(0)
    bench, model, loss = names["bench"], names["model"], names["loss"]
    step = cl.train_step(loss, cl.optim.sgd(0.1))
    key, init_key = cl.random.split(cl.key(0))
    net = model.init(init_key)
    parts = {"replay": cl.memory.reservoir.init(200, cl.memory.sample(model)), "lwf": cl.regularizers.lwf.init(net, n_classes=10)}
    agent = names["Agent"](key=key, model=net, opt=cl.optim.sgd(0.1).init(net.params), **parts)
    for exp in bench.train:
        agent = cl.regularizers.lwf.snapshot()(agent, exp)
        for rows in [rows for _ in range(3) for rows in torch.randperm(len(exp)).split(10)]:
            agent = step(agent, exp.take(exp.rows[rows], exp.valid[rows]))
        agent = cl.memory.reservoir.insert()(agent, exp)
    found = names["agent"]
    assert cl.tree.equal(found.replace(opt=None), agent.replace(opt=None), rtol=1e-4, atol=1e-5)
    assert not any(leaf.requires_grad for leaf in cl.tree.leaves(found))
    assert cl.evaluate(model, bench.test)(found)["accuracy"].mean() > 0.8
