"""One decorator for compiled kernels: no GIL, cached on disk where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

# "contract" allows fused multiply-adds; nothing that would let the compiler assume NaN or infinity away.
_FAST = {"contract"}


def kernel(function: F) -> F:
    """Compile ``function`` with numba on first call, releasing the GIL.

    The compiled code is cached between processes. Where neither the package folder nor a user cache folder is
    writable numba refuses ``cache=True`` when the module is imported; then the kernel is compiled anew in each
    process.
    """
    try:
        compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)(function)
    except RuntimeError:  # "cannot cache function: no locator available"
        compiled = numba.njit(nogil=True, error_model="numpy", fastmath=_FAST)(function)
    return cast("F", compiled)
