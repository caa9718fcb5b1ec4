"""C++ libraries built as inductor builds them, and the C interface of torch's own library."""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


@functools.cache
def build(source: str) -> ctypes.CDLL | None:
    """A library built of C++ source with inductor's builder, which keeps it in its cache on disk; None where that fails."""
    try:
        from torch._inductor.codecache import CppCodeCache  # slow to import

        library = CppCodeCache.load(source)
    except Exception:  # whatever the compiler says, there is another way to run
        return None
    return library if isinstance(library, ctypes.CDLL) else None


@functools.cache
def _torch_library() -> ctypes.CDLL:
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    name = "torch_cpu" if sys.platform == "win32" else "libtorch_cpu"
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"{name}{suffix}"))


def c_function(name: str) -> int | None:
    """The address of a function of torch's C interface for compiled code, such as "aoti_torch_cpu_mm_out"; None if it has none."""
    try:
        return ctypes.cast(getattr(_torch_library(), name), ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


class c_tensor:  # noqa: N801
    """A handle of torch's C interface on elements at an address, with shape, strides and dtype of a tensor; it owns no memory."""

    def __init__(
        self, address: int, like: Tensor, shape: Sequence[int] | None = None, strides: Sequence[int] | None = None
    ) -> None:
        library, handle = _torch_library(), ctypes.c_void_p()
        shape, strides = like.shape if shape is None else shape, like.stride() if strides is None else strides
        words = ctypes.c_int64 * len(shape)
        dtype = getattr(library, f"aoti_torch_dtype_{str(like.dtype).removeprefix('torch.')}")()
        failed = library.aoti_torch_create_tensor_from_blob(
            ctypes.c_void_p(address),
            ctypes.c_int64(len(shape)),
            words(*shape),
            words(*strides),
            ctypes.c_int64(0),
            ctypes.c_int32(dtype),
            ctypes.c_int32(library.aoti_torch_device_type_cpu()),
            ctypes.c_int32(0),
            ctypes.byref(handle),
        )
        if failed or not handle.value:
            raise RuntimeError("torch gave no handle for a tensor")
        self.value: int = handle.value
        weakref.finalize(self, library.aoti_torch_delete_tensor_object, handle)
