"""Key patterns: globs over keys, exactly as ``SCAN ... MATCH`` of Valkey reads them.

    *        any bytes, also none
    ?        one byte
    [abc]    one of these bytes; ``[a-c]`` a range, ``[^abc]`` any other byte
    \\x       the byte x itself, inside of brackets too

A bracket that does not end ends with the pattern. Every text is a pattern, except one with a range that begins or ends
with a byte beyond ASCII: whether such a byte comes after the letters or before them depends on the server's machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ...errors import UsageError

__all__ = ["LONGEST_PATTERN_BYTES", "escape", "matcher"]

# A tier's prefix with each byte escaped, and a pattern of the caller's: at most two names.
LONGEST_PATTERN_BYTES: Final = 2048

_LAST_ASCII: Final = 127
_SPECIAL: Final = re.compile(r"([\\*?\[\]])")
_BACKSLASH, _STAR, _ANY, _BRACKET, _END, _NOT, _RANGE = (ord(character) for character in "\\*?[]^-")


def escape(text: str) -> str:
    """Return the pattern that ``text`` alone matches."""
    return _SPECIAL.sub(r"\\\1", text)


@lru_cache(maxsize=256)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that returns whether a key matches ``pattern``.

    Raises:
        UsageError: A range begins or ends with a byte beyond ASCII.
    """
    matches = re.compile(_expression(pattern.encode()), re.DOTALL).fullmatch
    return lambda key: matches(key.encode()) is not None


def _expression(pattern: bytes) -> bytes:
    """Return the regular expression of ``pattern``.

    Each part between two stars matches at the first possible place, and never again (an atomic group): another place
    could not help, and the time stays linear in the number of stars.
    """
    parts: list[list[bytes]] = [[]]
    index = 0
    while index < len(pattern):
        byte = pattern[index]
        if byte == _STAR:
            parts.append([])
        elif byte == _ANY:
            parts[-1].append(b".")
        elif byte == _BRACKET:
            index, one = _bracket(pattern, index + 1)
            parts[-1].append(one)
        else:
            if byte == _BACKSLASH and index + 1 < len(pattern):
                index += 1
            parts[-1].append(b"\\x%02x" % pattern[index])
        index += 1
    first, *others = map(b"".join, parts)
    if not others:
        return first
    *middle, last = others
    return first + b"".join([b"(?>.*?%b)" % part for part in middle if part]) + b".*" + last


def _bracket(pattern: bytes, index: int) -> tuple[int, bytes]:
    """Return the index of the end of a bracket that begins before ``index``, and the expression of its byte."""
    is_inverted = pattern[index : index + 1] == b"^"
    index += is_inverted
    found: set[int] = set()
    while index < len(pattern) and (byte := pattern[index]) != _END:
        left = len(pattern) - index
        if byte == _BACKSLASH and left >= 2:
            index += 1
            found.add(pattern[index])
        elif left >= 3 and pattern[index + 1] == _RANGE:
            first, last = sorted((byte, pattern[index + 2]))
            if last > _LAST_ASCII:
                raise UsageError("a range of a pattern begins or ends beyond ASCII: servers read it in different ways")
            found.update(range(first, last + 1))
            index += 2
        else:
            found.add(byte)
        index += 1
    if is_inverted:
        found = set(range(256)) - found
    # ``(?!)`` matches nothing, as an empty bracket does.
    return index, b"[%b]" % b"".join([b"\\x%02x" % byte for byte in sorted(found)]) if found else b"(?!)"
