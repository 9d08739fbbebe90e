"""What a function does, as text that changes with it: for fingerprints."""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from penstock.errors import FeatureError

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def code_of(function: Callable[..., Any], name: str) -> str:
    """Its source, and a hash of what its source does not show: what it closes over, its defaults,
    and plain values of its module.

    Parameters
    ----------
    name: of what it belongs to.

    Raises
    ------
    FeatureError: it holds an object that can't be told from another by its text.
    """
    parts = list(_parts(function, name))
    hashed = hashlib.sha256("\n".join(parts[1:]).encode()).hexdigest()[:16]
    return f"{parts[0]}#{hashed}" if len(parts) > 1 else parts[0]


def _parts(function: Any, name: str) -> Iterator[str]:
    if isinstance(function, functools.partial):
        yield from _parts(function.func, name)
        yield _text(function.args, name)
        yield _text(sorted(function.keywords.items()), name)
        return
    code = getattr(function, "__code__", None)
    if code is None:  # an object that is called
        yield _text(function, name)
        return
    try:
        yield inspect.getsource(function)
    except (OSError, TypeError):  # typed in
        yield "\n".join(_compiled(code))
    for held in (function.__defaults__, function.__kwdefaults__):
        if held:
            yield _text(held, name)
    for cell in function.__closure__ or ():
        yield _text(cell.cell_contents, name)
    known = function.__globals__
    yield from (
        f"{used}={known[used]!r}"
        for used in sorted(set(code.co_names) & set(known))
        if isinstance(known[used], _PLAIN)
    )


def _compiled(code: types.CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _compiled(constant)
        else:
            yield repr(constant)


def _text(held: Any, name: str) -> str:
    if isinstance(held, types.FunctionType | functools.partial):
        return "\n".join(_parts(held, name))
    if isinstance(held, types.ModuleType | type):
        return f"{getattr(held, '__module__', '')}.{held.__name__}"
    text = repr(held)
    if " at 0x" in text:
        raise FeatureError(
            f"{name}: its function holds {text}, which can't be told from another one in a "
            "fingerprint; hold plain values, or give its class a __repr__"
        )
    return text
