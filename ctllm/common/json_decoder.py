"""The one decoder of JSON that another program wrote: a peer, a client, a file, a token.

msgspec raises errors of several kinds. Two of them are easily forgotten: UnicodeDecodeError, and
RecursionError for arrays in arrays in arrays. Here they are one, so that no caller misses one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast

import msgspec

T = TypeVar("T")

#: A JSON object whose members are not checked.
JsonObject = dict[str, Any]

#: Most bytes that are decoded unless a caller says otherwise.
MAX_SIZE = 16 * 1024 * 1024


class InvalidJson(ValueError):
    """The text is not JSON, not of the wanted type, nested too deeply or too long."""


def decode_json(data: bytes | str | msgspec.Raw, kind: type[T], max_size: int = MAX_SIZE) -> T:
    """Decode `data` as a `kind`; raises InvalidJson, whatever is wrong with it."""
    if len(memoryview(data) if isinstance(data, msgspec.Raw) else data) > max_size:
        raise InvalidJson(f"there are more than {max_size:,} bytes of it")
    try:
        return cast(T, _decoder(cast(Any, kind)).decode(data))
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except ValueError as error:  # among them msgspec's and UnicodeDecodeError
        raise InvalidJson(str(error)) from error


@lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of a type: making one for each text costs more than decoding a short text."""
    return msgspec.json.Decoder(kind)


class _ObjectPairs(list[tuple[str, object]]):
    """An object of JSON, told apart from an array."""


def decode_object_pairs(data: bytes, max_size: int = MAX_SIZE) -> list[tuple[str, object]]:
    """Give every member of a JSON object in its order, doubled ones too, which msgspec drops.

    Values are plain, objects among them lists of pairs. Raises InvalidJson.
    """
    import json  # of no use to a streaming proxy

    if len(data) > max_size:
        raise InvalidJson(f"there are more than {max_size:,} bytes of it")
    try:
        found = json.loads(data, object_pairs_hook=_ObjectPairs)
    except RecursionError:
        raise InvalidJson("it is nested too deeply") from None
    except ValueError as error:
        raise InvalidJson(str(error)) from error
    if not isinstance(found, _ObjectPairs):
        raise InvalidJson("it is no object")
    return found
