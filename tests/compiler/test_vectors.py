"""Which vector instructions inductor may use: found by one small file, or by inductor itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch._inductor import cpp_builder, cpu_vec_isa

from cl_func import torch_private
from cl_func.compiler.vectors import vector_options

WIDTHS = {"AVX2": 256, "AVX512": 512}
COMPILED = """
import torch, cl_func as cl
x = torch.linspace(-1, 1, 1000).reshape(40, 25)
update = lambda state, exp: {"x": (state["x"].exp() @ state["x"].T.sin()).cumsum(0)[:, :25].contiguous()}
print(float((cl.compile(update)({"x": x})["x"] - update({"x": x}, None)["x"]).abs().max()))
"""

pytestmark = pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="other instructions")


@pytest.fixture
def tries(monkeypatch):
    """The instructions for which inductor has built a library, none of which could be loaded."""
    tried = []
    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", lambda isa, code: bool(tried.append(str(isa))))
    torch_private.forget_vector_flags()
    yield tried
    torch_private.forget_vector_flags()


def test_they_are_found_without_a_library_for_each_of_them(tries):
    options = vector_options.__wrapped__()
    assert options == {"cpp.vec_isa_ok": True, "cpp.simdlen": WIDTHS[torch.backends.cpu.get_cpu_capability()]}
    with torch._inductor.config.patch(options):
        assert cpu_vec_isa.pick_vec_isa().bit_width() == options["cpp.simdlen"]
    assert tries == []


def test_with_a_compiler_that_does_not_know_them_inductor_finds_out(tries, monkeypatch):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", lambda: sys.executable)  # which knows no flag of g++
    assert vector_options.__wrapped__() == {}
    assert tries == []
    assert not cpu_vec_isa.pick_vec_isa()
    assert "avx2" in tries


def test_without_a_compiler_inductor_finds_out(tries, monkeypatch):
    def missing():
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing)
    assert vector_options.__wrapped__() == {}


@pytest.mark.parametrize("option", ["vec_isa_ok", "simdlen"])
def test_what_the_user_has_chosen_is_left(option):
    with torch._inductor.config.patch({f"cpp.{option}": 0}):
        assert vector_options.__wrapped__() == {}


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="vectors of one width")
def test_a_cache_of_another_width_is_not_read(tmp_path):
    """As where machines share it: torch's key of a program does not tell the width, and so it would compute wrong numbers."""
    environment = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(tmp_path), CL_FUNC_STRICT="1")
    for chosen in ({}, {"ATEN_CPU_CAPABILITY": "avx2"}):
        done = subprocess.run(
            [sys.executable, "-c", COMPILED], env=environment | chosen, capture_output=True, text=True, check=True
        )
        assert float(done.stdout) < 1e-4
