"""What we expect of torch's private API: if a test fails after an upgrade, docs/torch-upgrade.md says what depends on it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch
from torch.fx import GraphModule

from cl_func import torch_private as private


def test_a_transformation_is_seen_and_gone_afterwards():
    seen = []

    def look(x):
        seen.append((private.in_transform(), private.is_wrapped(x)))
        return x.sum()

    x = torch.ones(3, 2)
    look(x)
    torch.func.vmap(look)(x)
    torch.func.grad(look)(x)
    torch.func.jvp(look, (x,), (x,))
    look(x)
    assert seen == [(False, False), (True, True), (True, True), (True, True), (False, False)]


def test_modes_are_seen():
    assert not private.in_dispatch_mode()
    with private.fake_tensors():
        assert private.in_dispatch_mode()
    assert not private.in_dispatch_mode()


def test_what_is_wrapped_is_unwrapped():
    x, inner = torch.arange(6.0).reshape(3, 2), []
    torch.func.vmap(lambda row: inner.append(private.unwrap(row)) or row)(x)
    torch.testing.assert_close(inner[0], x)
    assert not private.is_wrapped(inner[0])


def test_the_gradient_level_tells_what_comes_from_the_argument():
    found, other = {}, torch.ones(())

    def loss(x):
        found["inner"], found["constant"] = private.has_gradient_level((x * 2).sum()), private.has_gradient_level(other)
        return (x * 2).sum()

    torch.func.grad(loss)(torch.ones(2))
    assert found == {"inner": True, "constant": False}
    assert not private.has_gradient_level(torch.ones(2))
    torch.func.vmap(torch.func.grad(loss))(torch.ones(3, 2))
    assert found == {"inner": True, "constant": False}


def test_views_have_the_storage_of_what_they_view():
    for mode in (None, private.fake_tensors()):
        with mode or torch.no_grad():
            x = torch.ones(4)
            assert private.storage_id(x) == private.storage_id(x[1:])
            assert private.storage_id(x) != private.storage_id(torch.ones(4))


def test_fake_tensors_have_no_values():
    with private.fake_tensors(), pytest.raises(Exception, match=r"."):
        torch.ones(2).sum().item()
    with private.fake_tensors(static=True) as mode:
        x = torch.ones(2, 3)
        assert x.shape == (2, 3)
        assert all(type(size) is int for size in x.shape)
    assert mode.shape_env is not None


def test_a_function_is_traced_through_transformations_and_compiled():
    def function(leaves):
        x, y = leaves
        return [torch.func.vmap(lambda row: torch.func.grad(lambda v: (v * v * row).sum())(row))(x) + y]

    with private.fake_tensors(static=True):
        inputs = [torch.empty(3, 4), torch.empty(4)]
    graph = private.trace(function, inputs)
    assert isinstance(graph, GraphModule)
    x, y = torch.rand(3, 4), torch.rand(4)
    compiled = private.compile_graph(graph, inputs, {})
    with torch.no_grad():
        torch.testing.assert_close(list(compiled(x, y)), function([x, y]))


def test_a_class_registered_with_pytree_is_seen_by_vmap():
    import cl_func as cl

    state = cl.Agent(key=torch.arange(3))
    assert torch.func.vmap(lambda agent: agent.replace(key=agent.key + 1))(state).key.tolist() == [1, 2, 3]
    assert len(private.pytree.tree_leaves(state)) == 1


def test_nothing_slow_is_imported_before_it_is_needed():
    code = "import sys, cl_func; print([m for m in sys.modules if m.startswith(('torch._inductor', 'torch._dynamo', 'sympy'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def compiled_sum():
    with private.fake_tensors(static=True):
        inputs = [torch.empty(3), torch.empty(3)]
    graph = private.trace(lambda leaves: [leaves[0].copy_(leaves[0] + leaves[1]), leaves[0] @ leaves[1]][2:], inputs)
    return private.compile_graph(graph, inputs, {})


def test_the_generated_function_is_found_and_its_kernels_are_wrapped():
    called = []

    def wrap(kernel, address):
        def run(*tensors):
            called.append((address, [x.tolist() for x in tensors]))
            kernel(*tensors)

        return run

    function, constants = private.generated(compiled_sum(), wrap)
    total = torch.zeros(3)
    assert not function([total, torch.ones(3)])
    assert total.tolist() == [1.0, 1.0, 1.0]
    assert constants == []
    (address, _), *others = called
    assert address
    assert not others


def test_what_is_not_generated_is_not_found():
    assert private.generated(lambda x: x, lambda kernel, address: kernel) is None
    assert private.generated(torch.add, lambda kernel, address: kernel) is None


def test_a_library_is_built():
    library = private.build('extern "C" int cl_func_seven() { return 7; }')
    assert library is not None
    assert library.cl_func_seven() == 7
    assert private.build("this is not C++") is None


def test_a_handle_is_a_tensor_on_given_memory():
    a, b, out = torch.arange(6.0).reshape(2, 3), torch.ones(3, 2), torch.empty(2, 2)
    handles = [private.c_tensor(x.data_ptr(), x) for x in (out, a, b)]
    product = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(private.c_function("aoti_torch_cpu_mm_out"))
    assert product(*(handle.value for handle in handles)) == 0
    assert out.tolist() == (a @ b).tolist()
    assert private.c_function("aoti_torch_no_such_function") is None


def test_a_stopped_gradient_is_that_of_the_innermost_level_alone():
    def inner(w, scale):
        return (w * private.stop_gradient(w * scale)).sum()  # its gradient by w is w * scale

    def outer(scale):
        w = torch.ones(3)
        found.append(private.is_differentiated(scale))
        return (torch.func.grad(inner)(w, scale) * torch.arange(3.0)).sum()

    found: list[bool] = []
    scale = torch.tensor(2.0)
    assert torch.equal(torch.func.grad(outer)(scale), torch.tensor(3.0))
    assert torch.equal(torch.func.jvp(outer, (scale,), (torch.ones(()),))[1], torch.tensor(3.0))
    assert torch.equal(torch.func.vmap(torch.func.grad(outer))(scale.expand(2)), torch.tensor([3.0, 3.0]))
    outer(scale.requires_grad_()).backward()
    assert torch.equal(scale.grad, torch.tensor(3.0))
    assert found == [True] * 4
    w = torch.ones(3, requires_grad=True)
    inner(w, 2.0).backward()
    assert torch.equal(w.grad, torch.full((3,), 2.0))
    assert not private.is_differentiated(torch.ones(3))
    assert not private.is_differentiated(w.detach())


def test_derivatives_of_an_operation_are_seen_below_autograd():
    x = torch.ones(2, requires_grad=True)
    with private.below_autograd():
        assert not (2 * x).requires_grad
    assert (2 * x).requires_grad
