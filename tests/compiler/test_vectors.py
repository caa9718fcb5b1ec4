"""Which vector instructions inductor may use: found by one small file, or by inductor itself."""

from __future__ import annotations

import sys

import pytest
import torch
from torch._inductor import cpp_builder, cpu_vec_isa

from cl_func import torch_private
from cl_func.compiler.vectors import vector_options

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
    assert options == {"cpp.vec_isa_ok": True}
    with torch._inductor.config.patch(options):
        assert cpu_vec_isa.pick_vec_isa().bit_width() == {"AVX2": 256, "AVX512": 512}[torch.backends.cpu.get_cpu_capability()]
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
