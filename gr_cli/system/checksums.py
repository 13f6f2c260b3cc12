"""Files of tensors that end in a checksum of what was written, so that a damaged file is not believed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from gr_cli.system.files import write_atomically
from gr_cli.system.reading import open_regular

# It follows the end of the zip archive that torch writes, where readers of such archives do not look.
_TRAILER_PREFIX = b"\ngr-blake2b:"
_TRAILER_BYTES = len(_TRAILER_PREFIX) + 64 + 1
_CHUNK_BYTES = 1 << 20


class DamagedError(ValueError):
    """A file does not hold what was written into it."""


class _HashingWriter:
    """Passes on what is written to a file, and hashes it."""

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
    """The checksum of the content of a file, as hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def save_tensors(path: Path, values: Mapping[str, Any]) -> None:
    """Write tensors and plain values with `torch.save`, and a checksum after them; whole or not at all.

    Raises:
        WriteError: as `write_whole`.
    """
    import torch

    def write(file: IO[bytes]) -> None:
        hashing = _HashingWriter(file)
        torch.save(dict(values), cast(IO[bytes], hashing))
        file.write(hashing.trailer())

    write_atomically(path, write)


def load_tensors(path: Path) -> dict[str, Any]:
    """The mapping that `save_tensors` wrote, on the CPU.

    Raises:
        DamagedError: the file holds something else.
        OSError: it is not there, or may not be read.
    """
    import torch

    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size - _TRAILER_BYTES
        _verify_checksum(file, size)
        file.seek(0)
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever unpickling raises
            raise DamagedError(f"it can't be read: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise DamagedError("it holds no values by name")
    return found


def _open(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except ValueError as error:
        raise DamagedError(str(error)) from error


def _verify_checksum(file: IO[bytes], content_bytes: int) -> None:
    """Compare the first `size` bytes of a file with the checksum that follows them."""
    file.seek(max(0, content_bytes))
    trailer, found, left = file.read(), _new_hash(), content_bytes
    if content_bytes < 0 or not trailer.startswith(_TRAILER_PREFIX):
        raise DamagedError("it does not end in a checksum")
    file.seek(0)
    while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
        found.update(chunk)
        left -= len(chunk)
    if trailer != _trailer(found):
        raise DamagedError("its checksum differs")
