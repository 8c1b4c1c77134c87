"""Decorators for compiled kernels: no GIL, cached on disk where that is possible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

# "contract" allows fused multiply-adds; nothing that would let the compiler assume NaN or infinity away.
_FAST = {"contract"}
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: F) -> F:
    """Compile ``function`` with numba on first call, releasing the GIL.

    The compiled code is cached between processes. Where neither the package folder nor a user cache folder is
    writable numba refuses ``cache=True`` when the module is imported; then the kernel is compiled anew in each
    process. Numba dates a cached kernel by the file it stands in: whoever edits a part in another file must touch it.
    """
    try:
        return _compiled(function, cache=True, fastmath=_FAST, no_cfunc_wrapper=True)
    except RuntimeError:  # "cannot cache function: no locator available"
        return _compiled(function, fastmath=_FAST, no_cfunc_wrapper=True)


def part(function: F) -> F:
    """Compile ``function`` for other kernels to call, not for Python: a third less to compile, and nothing to cache."""
    return _compiled(function, fastmath=_FAST, **_INNER)


def summing(function: F) -> F:
    """As ``part``, and sums may be reordered: only so are they vectorised. For loops that do nothing but sum."""
    return _compiled(function, fastmath=_FAST | {"reassoc"}, **_INNER)


def _compiled(function: F, **options: Any) -> F:
    return cast("F", numba.njit(nogil=True, error_model="numpy", **options)(function))
