"""Decorators for compiled kernels: no GIL, cached on disk where that is possible."""

from __future__ import annotations

import hashlib
import marshal
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
from numba.core.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

# "contract" allows fused multiply-adds; nothing that would let the compiler assume NaN or infinity away.
_FAST = {"contract"}
_INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: F) -> F:
    """Compile ``function`` with numba on first call, releasing the GIL.

    The compiled code is cached between processes, and found again only as long as everything that it was compiled
    from is the same (``_fingerprint``). Where neither the package folder nor a user cache folder is writable numba
    refuses ``cache=True`` when the module is imported; then the kernel is compiled anew in each process. So it is where
    a disk is full; what a damaged file held is compiled and written again.
    """
    try:
        compiled = _compiled(function, cache=True, fastmath=_FAST, no_cfunc_wrapper=True)
    except RuntimeError:  # "cannot cache function: no locator available"
        return _compiled(function, fastmath=_FAST, no_cfunc_wrapper=True)
    cache = cast("Any", compiled)._cache
    index = cache._cache_file
    index._source_stamp = (index._source_stamp, _fingerprint(function))
    # Numba lets every error but that of a missing file reach whoever called the kernel. Unpickling a damaged file can
    # raise anything; an index that cannot be read is an empty one, and so the next save writes it anew.
    index._load_index = _unless(Exception, index._load_index, dict)
    cache.load_overload = _unless(Exception, cache.load_overload, _nothing)
    cache.save_overload = _unless(OSError, cache.save_overload, _nothing)
    return compiled


def _unless(error: type[Exception], call: Callable[..., Any], otherwise: Callable[[], Any]) -> Callable[..., Any]:
    """``call``, with the answer of ``otherwise`` where it raises ``error``."""

    def guarded(*args: Any) -> Any:
        try:
            return call(*args)
        except error:
            return otherwise()

    return guarded


def _nothing() -> None:
    return None


def part(function: F) -> F:
    """Compile ``function`` for other kernels to call, not for Python: a third less to compile, and nothing to cache."""
    return _compiled(function, fastmath=_FAST, **_INNER)


def summing(function: F) -> F:
    """As ``part``, and sums may be reordered: only so are they vectorised. For loops that do nothing but sum."""
    return _compiled(function, fastmath=_FAST | {"reassoc"}, **_INNER)


def _compiled(function: F, **options: Any) -> F:
    return cast("F", numba.njit(nogil=True, error_model="numpy", **options)(function))


def _fingerprint(function: Callable[..., object]) -> str:
    """Digest of the code of a kernel, of all kernels that it calls, and of the constants that they use.

    Numba itself looks only at the file that a kernel stands in: after an upgrade that changes a callee in another file
    it would run what it had compiled before.
    """
    digest = hashlib.sha256()
    seen: set[str] = set()
    waiting: list[Any] = [function]
    while waiting:
        one = waiting.pop()
        key = f"{one.__module__}.{one.__qualname__}"
        if key in seen:
            continue
        seen.add(key)
        # Format 0 has no references, whose marks depend on how the code was loaded.
        digest.update(marshal.dumps(one.__code__.replace(co_filename=""), 0))
        for name in one.__code__.co_names:
            value = one.__globals__.get(name)
            if isinstance(value, Dispatcher):
                digest.update(f"{name} {'reassoc' in value.targetoptions.get('fastmath', ())}".encode())
                waiting.append(value.py_func)
            elif isinstance(value, bool | int | float | str | tuple):
                digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()
