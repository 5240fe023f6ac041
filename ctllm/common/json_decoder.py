"""The decoder of all JSON that another program wrote: peers, clients, files, tokens.

msgspec raises several exceptions for invalid JSON, among them UnicodeDecodeError, and
RecursionError for deeply nested arrays. Here they are one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

#: A JSON object whose members are not checked.
JsonObject = dict[str, Any]

#: The most bytes that are decoded by default.
MAX_SIZE = 16 * 1024 * 1024


class InvalidJson(ValueError):
    """The text is not JSON, not of the expected type, nested too deeply or too long."""


def decode_json(data: bytes | str | msgspec.Raw, kind: type[T], max_size: int = MAX_SIZE) -> T:
    """Decode `data` to a value of the type `kind`; raises InvalidJson."""
    if len(memoryview(data) if isinstance(data, msgspec.Raw) else data) > max_size:
        raise InvalidJson(f"it is longer than {max_size:,} bytes")
    try:
        return cast(T, _decoder(cast(Any, kind)).decode(data))
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except ValueError as error:  # includes DecodeError of msgspec and UnicodeDecodeError
        raise InvalidJson(str(error)) from error


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """Return the decoder of a type; creating one costs more than decoding a short text."""
    return msgspec.json.Decoder(kind)


class _ObjectPairs(list[tuple[str, object]]):
    """The members of a JSON object; distinguishes it from an array."""


def decode_object_pairs(data: bytes, max_size: int = MAX_SIZE) -> list[tuple[str, object]]:
    """Return the members of a JSON object in order, with duplicates, which msgspec drops.

    Objects among the values are lists of pairs, too. Raises InvalidJson.
    """
    import json  # here, because a streaming proxy never needs it

    if len(data) > max_size:
        raise InvalidJson(f"it is longer than {max_size:,} bytes")
    try:
        found = json.loads(data, object_pairs_hook=_ObjectPairs)
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidJson(str(error)) from error
    if not isinstance(found, _ObjectPairs):
        raise InvalidJson("it is not an object")
    return found
