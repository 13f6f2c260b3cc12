"""Contents of files as arrays of numbers, recognised by their bytes; nothing in them is executed.

Known formats (torch, NumPy, pickle, zip, compressed files, images, text) are decoded. All other bytes, such as tar,
SQLite or TensorBoard files, are read as numbers of each dtype at each alignment, and searched for embedded files.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gr_cli.evaluation.audit_images import images
from gr_cli.evaluation.audit_numbers import Numbers, array_of, as_numbers, dense, leaves

MAX_BYTES = 1 << 30  # of a file, and of all that is decompressed from it
_MAX_RAW_BYTES = 1 << 26  # bytes of unknown format that are read as numbers
_MAX_MEMBERS = 10_000  # members of an archive
_MAX_DEPTH = 6  # nesting of files within files
_MAX_EMBEDDED = 200  # files embedded in another
_MIN_BYTES = 12  # fewer can't contain a run of a sample
_SLACK = 1024  # bytes of an archive outside of its members


@dataclass(frozen=True)
class NumberArray:
    """An array of numbers in a file.

    Attributes:
        location: The file, and the dotted keys within.
        values: The numbers.
        is_decoded: Whether the format declares this dtype; else bytes are interpreted as it.
        is_image: Whether the array holds pixels.
    """

    location: str
    values: Numbers
    is_decoded: bool = True
    is_image: bool = False


class UnreadableContentError(Exception):
    """The reason why a file, or a part of it, can't be read."""


class ContentReader:
    """Reads the contents of one file.

    Attributes:
        unread: Reason for each location that could not be read.
        recognised: Whether the file was read as one of the known formats.
    """

    def __init__(self) -> None:
        self.unread: dict[str, str] = {}
        self.recognised = False
        self._bytes_left = MAX_BYTES

    def read(self, location: str, content: bytes, depth: int = 0) -> Iterator[NumberArray]:
        """All numbers in `content`, which lies at `location`, nested `depth` files deep."""
        if len(content) < _MIN_BYTES:
            return
        if depth > _MAX_DEPTH:
            self.unread[location] = f"lies more than {_MAX_DEPTH} files deep"
            return
        for form in _FORMATS:
            if form.magic.match(content):
                try:
                    yield from form.reader(self, location, content, depth)
                    self.recognised |= depth == 0
                    return
                except Exception as error:  # damaged and hostile files raise anything
                    if form.certain:
                        reason = str(error) if isinstance(error, UnreadableContentError) else type(error).__name__
                        self.unread.setdefault(location, f"can't be read ({reason}), and may hold anything")
                        break
        text = _as_text(content)
        yield from self._bytes(location, content, depth) if text is None else self._text(location, text, depth)

    def _decompressed(self, stream: Any) -> bytes:
        """The rest of a stream.

        Raises:
            UnreadableContentError: It exceeds the size limit.
        """
        data: bytes = stream.read(self._bytes_left + 1)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise UnreadableContentError(f"more than {MAX_BYTES >> 20} MiB when unpacked")
        return data

    # --- text and raw bytes

    def _text(self, location: str, text: str, depth: int) -> Iterator[NumberArray]:
        """The numbers of a text, as a table if it is one, and the contents of base64 and hexadecimal digits."""
        lines = [numbers for line in text.splitlines() if (numbers := [float(n) for n in _NUMBER.findall(line)])]
        yield NumberArray(location, np.array([number for line in lines for number in line]))
        table = lines[1:] if len(lines) > 2 and len(lines[0]) != len(lines[1]) else lines
        if len(table) > 1 and len({*map(len, table)}) == 1 < len(table[0]):
            yield NumberArray(location, np.array(table))
        for pattern, decode in _ENCODED:
            for match in list(pattern.finditer(text))[:_MAX_EMBEDDED]:
                try:
                    inner = decode("".join(match.group().split()))
                except ValueError:
                    continue
                yield from self.read(location, inner, depth + 1)

    def _bytes(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        """Bytes as numbers of each dtype at each alignment, and the files embedded in them."""
        if len(content) > _MAX_RAW_BYTES:
            self.unread.setdefault(location, f"of its bytes only the first {_MAX_RAW_BYTES >> 20} MiB were searched")
            content = content[:_MAX_RAW_BYTES]
        for values in as_numbers(content):
            yield NumberArray(location, values, is_decoded=False)
        for match in list(_EMBEDDED.finditer(content, 1))[:_MAX_EMBEDDED]:
            embedded, unread_before = content[match.start() :], dict(self.unread)
            form = next(form for form in _FORMATS if form.magic.match(embedded))
            try:
                yield from form.reader(self, location, embedded, depth + 1)
            except Exception:  # the bytes only start like this format
                self.unread = unread_before

    # --- tensors and arrays

    def _zip(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        """The tensors of a torch file; the members of any other archive."""
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            pickled = next((m.filename for m in members if m.filename.endswith("/data.pkl")), None)
            tree = self._load_torch(content, sum(m.file_size for m in members)) if pickled else None
            if pickled and tree is not None:
                yield from self._tree(location, tree, depth)
                members = [member for member in members if not _belongs_to_tree(member.filename, tree, members)]
            if len(members) > _MAX_MEMBERS:
                self.unread[location] = f"of its members only the first {_MAX_MEMBERS} were read"
            for member in members[:_MAX_MEMBERS]:
                name = _nested_location(location, member.filename.removesuffix(".npy"))
                if member.flag_bits & 1:
                    self.unread[name] = "is encrypted"
                    continue
                with archive.open(member) as file:
                    yield from self.read(name, self._decompressed(file), depth + 1)
            if archive.comment:
                yield from self.read(location, archive.comment, depth + 1)
            accounted_bytes = sum(m.compress_size + 2 * len(m.filename) + 256 for m in archive.infolist())
        if len(content) > accounted_bytes + _SLACK:
            yield from self._bytes(location, content, depth)

    def _load_torch(self, content: bytes, size: int) -> Any:
        """The contents of a torch file; None if it is damaged, or holds more than plain values and tensors."""
        if size > self._bytes_left:
            raise UnreadableContentError(f"more than {MAX_BYTES >> 20} MiB when unpacked")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # its members are read one by one instead
            return None

    def _tree(self, location: str, tree: Any, depth: int) -> Iterator[NumberArray]:
        """The numbers in nested containers, and the storages behind tensors that are views."""
        storages: dict[int, tuple[str, Tensor]] = {}
        for keys, value in leaves(tree):
            name = _nested_location(location, ".".join(keys))
            if isinstance(value, (bytes, str)):
                data = value.encode(errors="replace") if isinstance(value, str) else value
                yield from self.read(name, data, depth + 1)
            elif isinstance(value, Tensor):
                dense_value = dense(value)
                if dense_value is None:
                    self.unread[name] = "is a sparse tensor that is too large"
                    continue
                yield from self._array(name, array_of(dense_value), depth)
                storage = dense_value.new_empty(0).set_(dense_value.untyped_storage())
                if storage.numel() > dense_value.numel():
                    storages[storage.data_ptr()] = f"{name} (its storage)", storage
            else:
                yield from self._array(name, value, depth)
        for name, storage in storages.values():
            yield from self._array(name, array_of(storage), depth)

    def _array(self, location: str, values: Numbers, depth: int) -> Iterator[NumberArray]:
        """An array, and its bytes interpreted as other dtypes."""
        if values.dtype.names:
            for name in values.dtype.names:
                yield from self._array(_nested_location(location, name), values[name], depth)
        elif values.dtype.kind in "SUO":
            items = values.ravel().tolist()
            data = b"".join(items) if values.dtype.kind in "S" else "\n".join(map(str, items)).encode(errors="replace")
            yield from self.read(location, data, depth + 1)
        else:
            data = values.tobytes()[:_MAX_RAW_BYTES]
            if values.dtype.kind in "biuf":
                yield NumberArray(location, values)
            if values.dtype.kind in "f":
                yield NumberArray(location, np.frombuffer(data, "u1"), is_decoded=False)
            elif values.dtype.kind != "b":
                for other in as_numbers(data):
                    yield NumberArray(location, other, is_decoded=False)

    def _npy(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        header, _, rest = content.partition(b"\n")
        if b"'|O'" in header:  # objects are pickled behind the header
            yield from self.read(location, rest, depth + 1)
            return
        stream = io.BytesIO(content)
        yield from self._array(location, np.lib.format.read_array(stream, allow_pickle=False), depth)
        yield from self.read(location, stream.read(), depth + 1)

    def _pickle(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        """The contents of a legacy torch file; of any other pickle its bytes, texts and numbers, without unpickling."""
        tree = self._load_torch(content, 0) if _LEGACY_TORCH_MAGIC.match(content) else None
        if tree is not None:
            yield from self._tree(location, tree, depth)
            return
        numbers: list[float] = []
        strings: list[bytes] = []
        stream = io.BytesIO(content)
        for opcode, value, _ in pickletools.genops(stream):
            if opcode.name in _PICKLED_NUMBERS and isinstance(value, (int, float)):
                numbers.append(float(value))
            elif isinstance(value, (str, bytes, bytearray)) and opcode.name not in ("GLOBAL", "INST"):
                # Protocols before 3 write bytes as text.
                data = bytes(value) if not isinstance(value, str) else value.encode("latin-1", errors="replace")
                strings.append(data)
                if len(data) >= 64:
                    yield from self.read(location, data, depth + 1)
        yield NumberArray(location, np.array(numbers))
        for values in as_numbers(b"".join(string for string in strings if len(string) < 64)):
            yield NumberArray(location, values, is_decoded=False)
        yield from self.read(location, stream.read(), depth)

    # --- compressed files and images

    def _compressed(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        open_compressed = {b"\x1f": gzip.open, b"B": bz2.open, b"\xfd": lzma.open}[content[:1]]
        with open_compressed(io.BytesIO(content)) as file:  # type: ignore[operator]
            yield from self.read(location, self._decompressed(file), depth + 1)

    def _image(self, location: str, content: bytes, depth: int) -> Iterator[NumberArray]:
        for values in images(content):
            yield NumberArray(location, values, is_image=True)
        if content.startswith(b"\x89PNG"):
            yield from self.read(location, content[content.rindex(b"IEND") + 8 :], depth + 1)


@dataclass(frozen=True)
class _Format:
    """A file format.

    Attributes:
        magic: Pattern at the start of a file.
        reader: Method that reads it.
        certain: Whether the pattern is specific enough that a failure means damage.
    """

    magic: re.Pattern[bytes]
    reader: Callable[[ContentReader, str, bytes, int], Iterator[NumberArray]]
    certain: bool = True


_FORMATS = [
    _Format(re.compile(rb"PK\x03\x04|PK\x05\x06"), ContentReader._zip),
    _Format(re.compile(rb"\x93NUMPY"), ContentReader._npy),
    _Format(re.compile(rb"\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0"), ContentReader._compressed),
    _Format(re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP", re.DOTALL), ContentReader._image),
    _Format(re.compile(rb"\x80[\x02-\x05]"), ContentReader._pickle, certain=False),
    _Format(re.compile(rb"II\*\0|MM\0\*|BM.{4}\0\0\0\0|P[1-6]\s", re.DOTALL), ContentReader._image, certain=False),
]
_EMBEDDED = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff[\xc0-\xff]|PK\x03\x04|\x93NUMPY|\x1f\x8b\x08\0|GIF8[79]a")
_LEGACY_TORCH_MAGIC = re.compile(rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19")


def _base64(digits: str) -> bytes:
    # Excess padding is harmless; a single remaining digit encodes no byte.
    return base64.b64decode(digits[: len(digits) - (len(digits) % 4 == 1)] + "==", b"-_")


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ENCODED: tuple[tuple[re.Pattern[str], Callable[[str], bytes]], ...] = (
    (re.compile(r"(?:[0-9a-fA-F]{32,}\s*)+"), lambda digits: bytes.fromhex(digits[: len(digits) // 2 * 2])),
    (
        re.compile(r"(?:[A-Za-z0-9+/_-]{40,}\s*)+"),
        _base64,
    ),
)
_PICKLED_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}


def _nested_location(location: str, name: str) -> str:
    """The location of an item within another location."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    if not plain:
        return location
    return f"{location}.{plain}" if ": " in location else f"{location}: {plain}"


def _as_text(content: bytes) -> str | None:
    """`content` as text; None if it is binary."""
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8")
    except UnicodeDecodeError:
        return None
    return None if re.search(r"[\0-\x08\x0b\x0c\x0e-\x1f]", text[:4096]) else text


def _belongs_to_tree(member: str, tree: Any, members: list[zipfile.ZipInfo]) -> bool:
    """Whether a member of a torch archive was read with its tensors."""
    if "/data/" not in member:
        return member.endswith(("/data.pkl", "/version", "/byteorder", "/serialization_id", "/.format_version"))
    storages = {value.untyped_storage().data_ptr() for _, value in leaves(tree) if isinstance(value, Tensor)}
    return sum("/data/" in other.filename for other in members) <= len(storages)
