"""The options of ``prepare_params``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from ...errors import UsageError
from ..normalizer import BinaryNormalizer, default_normalizer

__all__ = ["PrepareOptions", "checked_options"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """The options of ``prepare_params``.

    Attributes:
        normalizer: Makes the text by which a binary part stands in the key, from ``compose_normalizer``.
        stateful: Whether to cache answers that depend on state at the provider, too.
    """

    normalizer: BinaryNormalizer = default_normalizer
    stateful: bool = False

    def __post_init__(self) -> None:
        if not callable(self.normalizer):
            raise UsageError(f"normalizer must be a function, not {type(self.normalizer).__name__}")


Options = TypeVar("Options", bound=PrepareOptions)


def checked_options(opts: object, kind: type[Options]) -> Options:
    """Return ``opts``, or the defaults of ``kind`` for None.

    Raises:
        UsageError: ``opts`` is something else.
    """
    if opts is None:
        return kind()
    if not isinstance(opts, kind):
        raise UsageError(f"opts must be {kind.__name__}, not {type(opts).__name__}")
    return opts
