"""Files of tensors that end in a checksum, so that damage is detected before unpickling."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from gr_cli.system.files import write_atomically
from gr_cli.system.reading import open_regular

# The checksum follows the zip archive that torch writes; zip readers ignore what stands there.
_TRAILER_PREFIX = b"\ngr-blake2b:"
_TRAILER_BYTES = len(_TRAILER_PREFIX) + 64 + 1
_CHUNK_BYTES = 1 << 20


class DamagedError(ValueError):
    """The content of a file is not what was written."""


class _HashingWriter:
    """A binary file for writing that hashes what passes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, _new_hash()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def trailer(self) -> bytes:
        return _trailer(self._hash)


def _new_hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=32)


def _trailer(content: hashlib.blake2b) -> bytes:
    return _TRAILER_PREFIX + content.hexdigest().encode() + b"\n"


def checksum(content: bytes) -> str:
    """BLAKE2b checksum as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def save_tensors(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically with `torch.save`, followed by a checksum.

    Raises:
        WriteError: See `write_atomically`.
    """
    import torch

    def write(file: IO[bytes]) -> None:
        hashing = _HashingWriter(file)
        torch.save(dict(values), cast(IO[bytes], hashing))
        file.write(hashing.trailer())

    write_atomically(path, write)


def load_tensors(path: Path) -> dict[str, Any]:
    """Load what `save_tensors` wrote, onto the CPU.

    Raises:
        DamagedError: The file has other content.
        OSError: The file does not exist or may not be read.
    """
    import torch

    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size - _TRAILER_BYTES
        _verify_checksum(file, size)
        file.seek(0)
        try:
            values = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever unpickling raises
            raise DamagedError(f"it can't be read: {type(error).__name__}") from error
    if not isinstance(values, dict):
        raise DamagedError("it holds no mapping of names to values")
    return values


def _open(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except ValueError as error:
        raise DamagedError(str(error)) from error


def _verify_checksum(file: IO[bytes], content_bytes: int) -> None:
    """Compare the first `content_bytes` bytes of a file with the checksum that follows them."""
    file.seek(max(0, content_bytes))
    trailer, content, remaining = file.read(), _new_hash(), content_bytes
    if content_bytes < 0 or not trailer.startswith(_TRAILER_PREFIX):
        raise DamagedError("it does not end in a checksum")
    file.seek(0)
    while remaining > 0 and (chunk := file.read(min(_CHUNK_BYTES, remaining))):
        content.update(chunk)
        remaining -= len(chunk)
    if trailer != _trailer(content):
        raise DamagedError("its checksum differs")
