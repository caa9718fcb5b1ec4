"""The driver: a few lines of C++ that take the calls of a recorded program, step after step, without Python in between.

A recorded program is an array of int64 words, call after call: [kind, words that follow, ...].

    KERNEL       address, arguments                           a kernel that inductor has compiled
    PRODUCT      address, out, a, b                           mm.out, bmm.out of torch's C interface, on handles of tensors
    SUM          address, out, self, a, b, beta, alpha        addmm.out, baddbmm.out; the numbers as bits of doubles
    CALLBACK     number                                       a Python function, for all other operations
    ADD_PRODUCT  gate, gates, decay, decays, double, number, address, out, a, b    cl_func::add_product (`add_product.py`)

Each step begins by copying the inputs that differ from step to step into the program's own memory: tables of addresses say where
they are. The driver is built once with torch's C++ builder, which keeps it on disk.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from cl_func import torch_private

KERNEL, PRODUCT, SUM, CALLBACK, ADD_PRODUCT = range(5)
MOST = 256  # arguments of a kernel

SOURCE = r"""
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <utility>
#if defined(__SSE__) && defined(_OPENMP)
#include <omp.h>
#include <xmmintrin.h>
#endif

using word = int64_t;
using handle = void*;
using product = int32_t (*)(handle, handle, handle);
using sum = int32_t (*)(handle, handle, handle, handle, double, double);
using callback = word (*)(word);

// A kernel takes pointers. It is called with up to 3 arguments more than it has, which no calling convention in use minds.
template <size_t... i>
static void call(word function, const word* a, std::index_sequence<i...>) {
    reinterpret_cast<void (*)(decltype(word(i))...)>(function)(a[i]...);
}
template <size_t n>
static void call_n(word function, const word* a) { call(function, a, std::make_index_sequence<n>{}); }
template <size_t... i>
static void dispatch(word function, word n, const word* a, std::index_sequence<i...>) {
    static constexpr void (*table[])(word, const word*) = {&call_n<4 * i>...};
    table[(n + 3) / 4](function, a);
}

static double number(word bits) { double x; std::memcpy(&x, &bits, sizeof x); return x; }

static bool any(const void* values, word n, bool is_double) {
    for (word i = 0; i < n; ++i)
        if (is_double ? static_cast<const double*>(values)[i] != 0.0 : static_cast<const float*>(values)[i] != 0.0f) return true;
    return false;
}

static bool step(const word* code, const word* end, callback python) {
    for (; code < end; code += 2 + code[1]) {
        const word* a = code + 2;
        auto h = [&](int i) { return reinterpret_cast<handle>(a[i]); };
        bool failed = false;
        switch (code[0]) {
        case 0: dispatch(a[0], code[1] - 1, a + 1, std::make_index_sequence<65>{}); break;
        case 1: failed = reinterpret_cast<product>(a[0])(h(1), h(2), h(3)); break;
        case 2: failed = reinterpret_cast<sum>(a[0])(h(1), h(2), h(3), h(4), number(a[5]), number(a[6])); break;
        case 3: failed = python(a[0]); break;
        case 4: {
            const bool* gate = reinterpret_cast<const bool*>(a[0]);
            word open = 0;
            for (word i = 0; i < a[1]; ++i) open += gate[i];
            if (a[1] && !open) break;
            if ((a[1] && open < a[1]) || any(h(2), a[3], a[4])) failed = python(a[5]);
            else failed = reinterpret_cast<sum>(a[6])(h(7), h(7), h(8), h(9), 1.0, 1.0);
            break;
        }
        }
        if (failed) return false;
    }
    return true;
}

// While it lives, all threads of a kernel take numbers too small for full precision as 0, as their caller does (`denormals.py`).
struct Flushed {
#if defined(__SSE__) && defined(_OPENMP)
    static inline thread_local unsigned before = 0;
    const bool several = omp_get_max_threads() > 1;
    Flushed() {
        if (!several) return;
        #pragma omp parallel
        { before = _mm_getcsr(); _mm_setcsr(before | 0x8040); }
    }
    ~Flushed() {
        if (!several) return;
        #pragma omp parallel
        { _mm_setcsr(before); }
    }
#endif
};

// Take up to n steps, and no more after some seconds. places: for each of m inputs [to, rows, bytes of a row, bytes from row to
// row]; table: [n, m] where each comes from. Returns the number of steps taken; fewer with `error` set is a failure.
extern "C" word cl_func_steps(const word* code, word words, const word* places, word m, const word* table, word n, double seconds,
                              callback python, char* error, word error_size) {
    using clock = std::chrono::steady_clock;
    const auto begin = clock::now();
    const Flushed flushed;
    word i = 0;
    error[0] = 0;
    try {
        for (; i < n; ++i) {
            if (i && seconds > 0 && std::chrono::duration<double>(clock::now() - begin).count() > seconds) break;
            for (word j = 0; j < m; ++j) {
                const word from = table[i * m + j];
                if (i && from == table[(i - 1) * m + j]) continue;
                const word* p = places + 4 * j;
                for (word r = 0; r < p[1]; ++r)
                    std::memcpy(reinterpret_cast<char*>(p[0] + r * p[3]), reinterpret_cast<char*>(from + r * p[3]), p[2]);
            }
            if (!step(code, code + words, python)) {
                std::snprintf(error, error_size, "%s", "an operation of torch failed");
                return i;
            }
        }
    } catch (const std::exception& e) {
        std::snprintf(error, error_size, "%s", e.what());
    } catch (...) {
        std::snprintf(error, error_size, "%s", "unknown exception");
    }
    return i;
}
"""

Callback = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


@functools.cache
def steps() -> Any:
    """The driver's function `cl_func_steps`; None where it cannot be built."""
    library = torch_private.build(SOURCE)
    if library is None:
        return None
    function = library.cl_func_steps
    word, words = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    function.argtypes = [words, word, words, word, ctypes.c_void_p, word, ctypes.c_double, Callback, ctypes.c_char_p, word]
    function.restype = word
    return function
