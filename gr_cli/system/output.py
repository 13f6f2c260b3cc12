"""stdout and stderr that never fail: what can't be written, or can't be written so, ends nothing."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any

# For terminals and files that know no Unicode. What is not here is shown by its number.
_ASCII = {"±": "+-", "·": "-", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "→": "->"}
_ASCII |= dict(zip("─━│┃┌┐└┘├┤┬┴┼╭╮╯╰━╸╺", "--||+++++++++++++---", strict=True))


class _LossyFile(io.FileIO):
    """A file descriptor that takes everything. What it could not pass on is lost; `error` is why, the first time."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        size, rest = memoryview(data).nbytes, memoryview(data).cast("B")
        while rest:
            try:
                written = super().write(rest)
                if written is None:  # it does not block, and is full: wait as one that blocks does
                    select.select([], [self], [])
            except OSError as error:
                self.error = self.error or error
                break
            rest = rest[written or 0 :]
        return size


def make_output_robust() -> None:
    """Let nothing that this process prints end it: not a reader that is gone, a full disk, a closed stdout, or an
    encoding that lacks a character."""
    codecs.register_error("gr_plain", _encode_as_ascii)
    _open_closed_standard_streams()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or (isinstance(stream, io.TextIOWrapper) and not isinstance(_raw_file(stream), _LossyFile)):
            setattr(sys, name, _robust_stream(stream, number))


def output_error() -> OSError | None:
    """Why some of what was printed to stdout is lost; None if nothing is."""
    raw = _raw_file(sys.stdout)
    if not isinstance(raw, _LossyFile):
        return None
    sys.stdout.flush()
    return raw.error


def stdout_closed() -> bool:
    """Whether nobody reads stdout any more: it is a pipe, and its other end is closed."""
    error = output_error()
    return error is not None and error.errno == errno.EPIPE


def incomplete_output_message() -> str | None:
    """A line for what stdout was to take and could not; None if it is whole, or its reader left."""
    error = output_error()
    if error is None or error.errno == errno.EPIPE:
        return None
    return f"stdout can't be written ({error.strerror}); some of what it was to show is lost"


def _robust_stream(stream: io.TextIOWrapper | None, number: int) -> io.TextIOWrapper:
    """The same stream by another way; one of its own to the null device where there is none."""
    try:
        if stream is None:
            raise ValueError("it was closed when this process began")
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
    """Open what was closed of stdin, stdout and stderr on the null device, so that no file gets its number: it would
    be written to by all that print."""
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
    """What stands for characters that an encoding lacks. Bytes of a file name that were no text stay what they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, end = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":
        return character.encode("utf-8", "surrogateescape"), end
    return _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii"), end
