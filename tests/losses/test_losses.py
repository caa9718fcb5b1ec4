"""Losses and LwF: known answers against torch and worked by hand, finite under masks, zero at the anchor."""

from __future__ import annotations

import pytest
import registry
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import cl_func as cl
from cl_func import losses, regularizers, testing

MODEL = registry.MODEL
EXP = registry.BENCH.train[0]


def value(loss, state, exp=EXP):
    return loss(state.model.params, state, exp)[0]


def logits(state, exp=EXP):
    return MODEL.apply(state.model.params, {}, exp.x)[0]


def test_cross_entropy_equals_torch():
    state = registry.init(cl.key(0))
    torch.testing.assert_close(value(losses.cross_entropy(MODEL), state), F.cross_entropy(logits(state), EXP.y))
    valid = torch.arange(len(EXP)) % 3 > 0
    part = EXP.take(EXP.rows, valid)
    torch.testing.assert_close(value(losses.cross_entropy(MODEL), state, part), F.cross_entropy(logits(state)[valid], EXP.y[valid]))


def test_masked_cross_entropy_is_over_the_masked_classes():
    state = registry.init(cl.key(0))
    expected = F.cross_entropy(logits(state)[:, :2], EXP.y)  # experience 0 has the classes 0 and 1
    torch.testing.assert_close(value(losses.cross_entropy(MODEL, mask="experience"), state), expected)
    state = state.replace(seen=torch.tensor([True, True, True, False]))
    torch.testing.assert_close(value(losses.cross_entropy(MODEL, mask="seen"), state), F.cross_entropy(logits(state)[:, :3], EXP.y))


def test_a_masked_class_gets_no_gradient():
    state = registry.init(cl.key(0))
    loss = losses.cross_entropy(MODEL, mask="experience")
    grads = torch.func.grad(lambda p: loss(p, state, EXP)[0])(state.model.params)
    assert (grads["2.weight"][2:] == 0).all()
    assert (grads["2.weight"][:2] != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gap", [1e3, 3e4])
def test_losses_are_finite_at_large_gaps(gap, dtype):
    z = torch.tensor([[gap, -gap, 0.0, gap], [-gap, gap, gap, 0.0]], dtype=dtype, requires_grad=True)
    classes = torch.tensor([True, True, False, False])
    loss = F.cross_entropy(losses.mask_logits(z, classes).float(), torch.tensor([1, 0]))
    (grad,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert grad.isfinite().all()
    for mask in (classes, ~classes, classes & False):
        for student, teacher in ((z, z.detach().flip(0)), (z, z.detach())):
            kept = losses.distillation(student.float(), teacher.float(), mask, torch.tensor([True, True]), 2.0)
            (grad,) = torch.autograd.grad(kept, z)
            assert kept.isfinite()
            assert grad.isfinite().all()


def test_several_labels_outside_the_mask_stay_finite():
    masked = losses.mask_logits(torch.zeros(4, 3), torch.tensor([True, False, False]))
    assert losses.weighted_mean(F.cross_entropy(masked, torch.tensor([1, 1, 2, 2]), reduction="none"), torch.ones(4) > 0).isfinite()


@settings(deadline=None)
@given(key=testing.keys(), temperature=st.floats(0.5, 8.0), n=st.integers(1, 6))
def test_distillation_against_torch(key, temperature, n):
    student, teacher = (cl.random.normal(k, (n, 5), torch.float64) * 3 for k in cl.random.split(key))
    classes = torch.tensor([True, False, True, True, False])
    ours = losses.distillation(student, teacher, classes, torch.ones(n, dtype=torch.bool), temperature)
    log_p, log_q = ((z[:, classes] / temperature).log_softmax(-1) for z in (student, teacher))
    expected = F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * temperature**2
    torch.testing.assert_close(ours, expected)
    assert ours >= -1e-12
    assert losses.distillation(teacher, teacher, classes, torch.ones(n, dtype=torch.bool), temperature).abs() < 1e-12


def test_lwf_is_zero_at_its_anchor_and_positive_off_it():
    state, loss = registry.init(cl.key(0)), regularizers.lwf.distillation(MODEL)
    assert value(loss, state) > 1e-3
    at_anchor = state.replace(lwf=state.lwf.replace(teacher=state.model))
    assert value(loss, at_anchor).abs() < 1e-6
    knows_nothing = state.replace(lwf=state.lwf.replace(old=state.lwf.old & False))
    assert value(loss, knows_nothing) == 0


def test_lwf_strength_and_temperature_are_leaves():
    state, loss = registry.init(cl.key(0)), regularizers.lwf.distillation(MODEL)
    torch.testing.assert_close(value(loss, cl.tree.set(state, {"lwf.strength": 3.0})), 3 * value(loss, state))
    assert value(loss, cl.tree.set(state, {"lwf.temperature": 4.0})) != value(loss, state)


def net_keys(state):
    """The buffers from which the layers of a model draw."""
    return [name for name in state.model.buffers if name.rpartition(".")[2] == "key"]


def test_lwf_asks_the_teacher_in_eval_mode_and_the_student_in_train_mode():
    """With dropout and batch norm in the model, against the answers of the two modes."""
    model = registry.NORMED
    state = registry.init(cl.key(0), model)
    buffers = {k: (v + 1 if v.is_floating_point() else v) for k, v in state.lwf.teacher.buffers.items()}
    state = state.replace(lwf=state.lwf.replace(teacher=state.lwf.teacher.replace(buffers=buffers)))
    loss = regularizers.lwf.distillation(model)

    def expected(student, teacher):
        net, known = state.model, state.lwf.teacher
        z, _ = model.apply(net.params, net.buffers, EXP.x, train=student)
        t, _ = model.apply(known.params, known.buffers, EXP.x, train=teacher)
        old, T = state.lwf.old, state.lwf.temperature
        p, q = torch.softmax(t[:, old] / T, 1), torch.log_softmax(z[:, old] / T, 1)
        return state.lwf.strength * T**2 * (p * (p.log() - q)).sum(1).mean()

    with torch.random.fork_rng():  # dropout draws
        torch.manual_seed(0)
        found, after = loss(state.model.params, state, EXP)
        torch.manual_seed(0)
        torch.testing.assert_close(found, expected(student=True, teacher=False))
    for student, teacher in ((True, True), (False, False)):
        assert (expected(student, teacher) - found).abs() > 1e-3
    keys = {f"model.buffers.{name}" for name in net_keys(state)}
    moved = {path for (path, a), b in zip(cl.tree.items(after), cl.tree.leaves(state), strict=True) if not torch.equal(a, b)}
    assert moved == keys  # the statistics stay, and no mask is drawn twice


def test_snapshot_tracks_classes():
    state, snapshot = registry.init(cl.key(0)), regularizers.lwf.snapshot()
    state = state.replace(lwf=regularizers.lwf.init(state.model, 4))
    assert regularizers.lwf.new_classes()(state, EXP)
    state = snapshot(state, EXP)
    assert state.lwf.old.tolist() == [False] * 4
    assert state.lwf.seen.tolist() == [True, True, False, False]
    assert not regularizers.lwf.new_classes()(state, EXP)
    state = snapshot(state, registry.BENCH.train[1])
    assert state.lwf.old.tolist() == [True, True, False, False]
    assert state.lwf.seen.tolist() == [True] * 4
    testing.assert_equal(state.lwf.teacher, state.model, "teacher")


def test_replay_joins_one_mean():
    state = registry.init(cl.key(0))
    _, draw_key = cl.random.split(state.key)
    rows, valid = cl.memory.reservoir.draw(state.replay, draw_key, 3)
    x, y = torch.cat([EXP.x, rows["x"]]), torch.cat([EXP.y, rows["y"]])
    expected = F.cross_entropy(MODEL.apply(state.model.params, {}, x)[0], y)
    assert valid.all()
    torch.testing.assert_close(value(losses.with_replay(losses.cross_entropy(MODEL), 3), state), expected)
    empty = state.replace(replay=cl.memory.reservoir.init(4, cl.memory.sample(MODEL)))
    torch.testing.assert_close(
        value(losses.with_replay(losses.cross_entropy(MODEL), 3), empty), value(losses.cross_entropy(MODEL), empty)
    )


@pytest.mark.parametrize("kind", ["lwf", "er", "er_lwf"])
def test_methods_differ_from_naive_after_the_second_experience_only_if_they_are_on(kind):
    loop = {"batch_size": 5, "epochs": 2}
    memory = {"capacity": 6, "replay_size": 4} if "er" in kind else {}
    method = getattr(cl.strategies, kind)(MODEL, registry.SGD, **memory, **loop)
    naive = cl.strategies.naive(MODEL, registry.SGD, **loop)
    plain = cl.fold(naive.update, naive.init(cl.key(0)), registry.BENCH.train)
    ours = cl.fold(method.update, method.init(cl.key(0)), registry.BENCH.train)
    assert not cl.tree.equal(ours.model, plain.model, 1e-3, 1e-3)
    if kind == "lwf":
        off = cl.fold(method.update, cl.tree.set(method.init(cl.key(0)), {"lwf.strength": 0.0}), registry.BENCH.train)
        step = cl.train_step(losses.cross_entropy(MODEL, mask="experience"), registry.SGD)
        plain = cl.fold(cl.minibatches(step, **loop), naive.init(cl.key(0)), registry.BENCH.train)
        testing.assert_equal(off.model, plain.model, "strength 0 is the cross-entropy alone", 1e-5, 1e-6)


def wrong_data(x):
    return cl.experience(cl.Dataset(x, torch.arange(len(x)) % 4))


def test_data_that_does_not_fit_the_model():
    state, replayed = registry.init(cl.key(0)), losses.with_replay(losses.cross_entropy(MODEL), 2)
    with pytest.raises(ValueError, match=r"the memory stores inputs of shape \[6\], the experience has \[9\]"):
        value(replayed, state, wrong_data(torch.zeros(4, 9)))
    with pytest.raises(TypeError, match=r"x: the weights are float32.*got float64\[4, 6\]"):
        value(losses.cross_entropy(MODEL), state, wrong_data(torch.zeros(4, 6, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: losses.cross_entropy(MODEL, mask="old"), ValueError, "mask: expected None, 'experience' or 'seen', got 'old'"),
        (lambda: losses.total(), TypeError, "losses: expected at least one"),
        (lambda: losses.scaled(losses.cross_entropy(MODEL), None), TypeError, "by: expected a number or the path"),
        (lambda: losses.with_replay(losses.cross_entropy(MODEL), 0), ValueError, "n: .* at least 1, got 0"),
        (lambda: regularizers.lwf.init(MODEL.init(cl.key(0)), 4, strength=-1.0), ValueError, "strength: .* got -1"),
        (lambda: regularizers.lwf.init(MODEL.init(cl.key(0)), 4, temperature=0.0), ValueError, "temperature: .* got 0"),
        (
            lambda: value(losses.scaled(losses.cross_entropy(MODEL), "ewc.strength"), registry.init(cl.key(0))),
            ValueError,
            "ewc.strength",
        ),
        (
            lambda: value(losses.with_replay(losses.cross_entropy(MODEL), 2, slot="er"), registry.init(cl.key(0))),
            ValueError,
            "no 'er'",
        ),
        (
            lambda: value(
                losses.cross_entropy(cl.models.mlp(6, (8,), n_classes=3)),
                registry.init(cl.key(0), cl.models.mlp(6, (8,), n_classes=3)),
            ),
            ValueError,
            r"n_classes: the model has 3 outputs, the data has 4 classes.*=4\. If labels go from 1 to 3, subtract 1 \(y - 1\)",
        ),
        (
            lambda: value(
                losses.cross_entropy(cl.models.mlp(6, (8,), n_classes=2)),
                registry.init(cl.key(0), cl.models.mlp(6, (8,), n_classes=2)),
            ),
            ValueError,
            r"Build the model with n_classes=4\.$",
        ),
        (lambda: losses.mask_logits(torch.zeros(2, 5), torch.ones(4) > 0), ValueError, "mask is for 4 classes"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
