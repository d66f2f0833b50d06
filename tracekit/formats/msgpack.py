"""Decodes MessagePack: the types that other tools' logs use. Extension types are refused."""

from __future__ import annotations

import struct
from typing import Any

__all__ = ["unpack"]

_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_BYTES = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}
_TEXTS = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I"}
_ARRAYS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_DEPTH_MAX = 100


def unpack(data: bytes) -> Any:
    """Return the one value in `data`. Raises ValueError if it is not exactly one."""
    try:
        value, end = _value(data, 0, 0)
    except (struct.error, IndexError) as error:
        raise ValueError("ends inside a value") from error
    if end != len(data):
        raise ValueError("more than one value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply")
    code = data[at]
    at += 1
    if code <= 0x7F or code >= 0xE0:
        return code if code <= 0x7F else code - 256, at
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code in _NUMBERS:
        (number,) = struct.unpack_from(_NUMBERS[code], data, at)
        return number, at + struct.calcsize(_NUMBERS[code])
    if code <= 0x8F or code in _MAPS:
        size, at = (code & 15, at) if code <= 0x8F else _size(_MAPS[code], data, at)
        return _map(data, at, size, depth)
    if code <= 0x9F or code in _ARRAYS:
        size, at = (code & 15, at) if code <= 0x9F else _size(_ARRAYS[code], data, at)
        return _array(data, at, size, depth)
    if code <= 0xBF or code in _TEXTS:
        size, at = (code & 31, at) if code <= 0xBF else _size(_TEXTS[code], data, at)
        return _slice(data, at, size).decode("utf-8", "replace"), at + size
    if code in _BYTES:
        size, at = _size(_BYTES[code], data, at)
        return _slice(data, at, size), at + size
    raise ValueError(f"type {code:#x} is not known")


def _array(data: bytes, at: int, size: int, depth: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(size):
        value, at = _value(data, at, depth + 1)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, size: int, depth: int) -> tuple[dict[Any, Any], int]:
    found = {}
    for _ in range(size):
        key, at = _value(data, at, depth + 1)
        if not isinstance(key, str | bytes | int | None):
            raise ValueError("a key is a list or a map")
        found[key], at = _value(data, at, depth + 1)
    return found, at


def _size(form: str, data: bytes, at: int) -> tuple[int, int]:
    (size,) = struct.unpack_from(form, data, at)
    return int(size), at + struct.calcsize(form)


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError("ends inside a value")
    return data[at : at + size]
