"""Robust stdout and stderr: a closed pipe, a full disk or a narrow encoding never ends a run."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any

# Replacements of characters that an encoding lacks; others are written as escapes.
_ASCII = {"±": "+-", "·": "-", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "→": "->"}
_ASCII |= dict(zip("─━│┃┌┐└┘├┤┬┴┼╭╮╯╰━╸╺", "--||+++++++++++++---", strict=True))


class _LossyFile(io.FileIO):
    """A file descriptor that drops what it can't write. `error` is the first error, or None."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        size, remaining = memoryview(data).nbytes, memoryview(data).cast("B")
        while remaining:
            try:
                written = super().write(remaining)
                if written is None:  # a full non-blocking pipe: wait for its reader
                    select.select([], [self], [])
            except OSError as error:
                self.error = self.error or error
                break
            remaining = remaining[written or 0 :]
        return size


def make_output_robust() -> None:
    """Replace stdout and stderr so that printing never raises.

    Covered are a closed pipe, a full disk, closed standard streams, and characters that the encoding lacks.
    """
    codecs.register_error("gr_plain", _encode_as_ascii)
    _open_closed_standard_streams()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or (isinstance(stream, io.TextIOWrapper) and not isinstance(_raw_file(stream), _LossyFile)):
            setattr(sys, name, _robust_stream(stream, number))


def encodable(text: str, encoding: str) -> str:
    """`text` as stdout shows it: characters that the encoding lacks replaced."""
    codecs.register_error("gr_plain", _encode_as_ascii)
    return text.encode(encoding, "gr_plain").decode(encoding, "replace")


def output_error() -> OSError | None:
    """The error by which output to stdout was lost; None if nothing was lost."""
    raw = _raw_file(sys.stdout)
    if not isinstance(raw, _LossyFile):
        return None
    sys.stdout.flush()
    return raw.error


def stdout_closed() -> bool:
    """Whether stdout is a pipe whose reader has closed it."""
    error = output_error()
    return error is not None and error.errno == errno.EPIPE


def incomplete_output_message() -> str | None:
    """The message that output to stdout was lost; None if it is complete, or the reader closed the pipe."""
    error = output_error()
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"stdout can't be written ({error.strerror}); part of the output is lost"


def _robust_stream(stream: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    """A robust stream on the same file descriptor; without one, to the null device."""
    try:
        if stream is None:
            raise ValueError("closed before this process started")
        raw = _LossyFile(stream.fileno(), "wb", closefd=False)
    except (OSError, ValueError):
        raw = _LossyFile(os.open(os.devnull, os.O_WRONLY), "wb")
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="gr_plain",
        line_buffering=raw.isatty() or number == 2 or (stream is not None and stream.line_buffering),
        write_through=stream is not None and stream.write_through,
    )


def _raw_file(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def _open_closed_standard_streams() -> None:
    """Open closed standard streams on the null device.

    Otherwise the next opened file would get the descriptor of stdout, and everything printed would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)


def _encode_as_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: ASCII for characters that the encoding lacks, raw bytes for undecodable file names."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return character.encode("utf-8", "surrogateescape"), end
    return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii"), end
