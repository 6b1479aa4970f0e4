"""The signature that ``inspect.signature`` shows for a decorated function."""

from __future__ import annotations

import inspect

__all__ = ["MethodSignature"]


class MethodSignature:
    """The attribute ``__signature__`` of a decorated function: without the instance, if it is a method of one."""

    def __get__(self, decorated: object, owner: type | None = None) -> inspect.Signature | None:
        if decorated is None:
            # The signature of the class itself is that of its constructor.
            return None
        signature = inspect.signature(vars(decorated)["__wrapped__"])
        single = decorated
        for name in ("_cached", "_single"):
            single = vars(single).get(name, single)
        if not vars(single)["_instance"]:
            return signature
        return signature.replace(parameters=list(signature.parameters.values())[1:])
