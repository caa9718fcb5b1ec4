"""The kernels of a program, built in a few C++ files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._inductor import async_compile, codecache
from torch._inductor.utils import fresh_cache

import cl_func.torch_private.kernels as kernels
from cl_func import torch_private as private


def three(leaves):
    """Three kernels, with matrix products between them."""
    x, n = leaves
    a = (x.sin() @ x).softmax(-1)
    b = (a.exp() @ x).cumsum(0) * torch.arange(8)
    return [(b @ x).relu(), n // (n + 1)]


def compiled(function=three, size=8):
    """A function of two tensors, compiled in an empty cache, and the number of its C++ files."""
    with fresh_cache():
        with private.fake_tensors(static=True):
            inputs = [torch.empty(size, size), torch.empty(size, dtype=torch.int64)]
        program = private.compile_graph(private.trace(function, inputs), inputs, {})
        return program, len(list(Path(codecache.cache_dir()).rglob("*.main.so")))


def values(program):
    with torch.no_grad():
        return program(torch.linspace(-1, 1, 64).reshape(8, 8), torch.arange(8))


def test_kernels_share_a_file_and_compute_what_they_compute_apart(monkeypatch):
    program, files = compiled()
    assert files == 1
    monkeypatch.setattr(kernels, "together", contextlib.nullcontext)
    apart, files = compiled()
    assert files > 2
    assert all(torch.equal(a, b) for a, b in zip(values(program), values(apart), strict=True))
    torch.testing.assert_close(list(values(program)), three([torch.linspace(-1, 1, 64).reshape(8, 8), torch.arange(8)]))


def test_a_full_file_gets_no_further_kernel(monkeypatch):
    def waiting(*sizes):
        return [kernels.Waiting([], "x" * size) for size in sizes]

    def lengths(*sizes):
        return [[len(kernel.source) for kernel in file] for file in kernels._files(waiting(*sizes))]

    full = kernels.FULL
    assert lengths() == []
    assert lengths(10, full - 10, 1, full + 1, 2, 3) == [[10, full - 10], [1], [full + 1], [2, 3]]
    monkeypatch.setattr(kernels, "FULL", 1)
    program, files = compiled()
    assert files > 2
    torch.testing.assert_close(list(values(program)), three([torch.linspace(-1, 1, 64).reshape(8, 8), torch.arange(8)]))


def test_a_kernel_of_another_form_is_built_by_itself(monkeypatch):
    monkeypatch.setattr(kernels, "FUNCTION", kernels.re.compile("no such function"))
    program, files = compiled()
    assert files > 2
    torch.testing.assert_close(list(values(program)), three([torch.linspace(-1, 1, 64).reshape(8, 8), torch.arange(8)]))


def test_one_thread_builds_them_too(monkeypatch):
    for module in (kernels, async_compile):
        monkeypatch.setattr(module, "get_compile_threads", lambda: 1)
    program, files = compiled()
    assert files == 1
    torch.testing.assert_close(list(values(program)), three([torch.linspace(-1, 1, 64).reshape(8, 8), torch.arange(8)]))


def test_what_a_kernel_raises_is_raised():
    program, _ = compiled()
    with torch.no_grad(), pytest.raises(RuntimeError, match="ZeroDivisionError"):
        program(torch.ones(8, 8), torch.full((8,), -1))


def test_a_kernel_called_with_another_number_of_tensors_raises():
    found = []
    private.generated(compiled()[0], lambda kernel, address: found.append(kernel))
    for kernel in found:
        with pytest.raises(TypeError, match=r"kernel_\d takes \d tensors"):
            kernel()


def test_a_file_on_disk_is_loaded_without_a_look_at_the_header(monkeypatch):
    looked, look = [], codecache._precompile_header
    monkeypatch.setattr(codecache, "_precompile_header", lambda *args, **kwargs: looked.append(args) or look(*args, **kwargs))
    text = kernels._text([kernels.Waiting(["float*"], f'extern "C" void kernel(float* x)\n{{ x[0] += {id(looked)}; }}\n')])
    x = torch.zeros(1)
    with fresh_cache():
        kernels._load(text)().kernel_0(x)
        assert len(looked) == 1
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("a process was started"))
        kernels._load(text)().kernel_0(x)
    assert len(looked) == 1
    assert x.item() == torch.tensor(2 * id(looked), dtype=torch.float32).item()


def test_after_an_interrupted_build_the_next_one_begins_anew(monkeypatch):
    """Ctrl-C reaches g++ too, and what waits for it would keep the error for good."""
    text = kernels._text([kernels.Waiting(["float*"], 'extern "C" void kernel(float* x)\n{ x[0] += 12345; }\n')])

    def interrupted(lock, builders):
        raise KeyboardInterrupt

    x = torch.zeros(1)
    with fresh_cache():
        with monkeypatch.context() as patch:
            patch.setattr(codecache, "_worker_compile_cpp", interrupted)
            with pytest.raises(KeyboardInterrupt):
                kernels._load(text)()
        kernels._load(text)().kernel_0(x)
    assert x.item() == 12345


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_compiles(tmp_path):
    """Its pool of threads has no threads."""
    code = """if True:
        import os, torch, cl_func as cl
        compiled = [cl.compile(lambda state, exp, i=i: {"x": state["x"].sin() + i}) for i in range(2)]
        print(float(compiled[0]({"x": torch.zeros(3)})["x"][0]), flush=True)
        if os.fork():
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
        print(float(compiled[1]({"x": torch.zeros(3)})["x"][0]), flush=True)
        os._exit(0)
    """
    environment = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), CL_FUNC_STRICT="1")
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["0.0", "1.0"]


def test_other_programs_of_torch_are_built_as_they_were():
    compiled()
    assert async_compile.AsyncCompile is kernels.AsyncCompile
    with contextlib.suppress(ZeroDivisionError), kernels.together():
        assert async_compile.AsyncCompile is kernels.Together
        raise ZeroDivisionError
    assert async_compile.AsyncCompile is kernels.AsyncCompile
