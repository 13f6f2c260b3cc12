"""Exceptions of this package, with the exit code of the command line.

GrError                          1
    AuditError                   1
    IncompleteAuditError         3
    CompositionError             2
    ConfigError                  2
    DataError                    2
    FolderError                  2
        DamagedCheckpointError   2
        OccupiedFolderError      2
    Interrupted                130
    OutOfMemoryError             1
    Pruned                       0
    SizeError                    2
    TrainingError                1
    WriteError                   1
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class GrError(Exception):
    """Base class of all exceptions of this package.

    Attributes:
        exit_code: Exit status of the command line.
        run_state: State of a run that ended with it, in status.json.
    """

    exit_code = 1
    run_state = "failed"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle arguments and attributes, whatever the signature of `__init__`."""
        return _rebuild_error, (type(self), self.args, self.__dict__)

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows: of a user's mistake the message alone."""
        if self.exit_code == 2 and self.__cause__ is None:
            return [f"{type(self).__name__}: {self}"]
        return "".join(traceback.format_exception(self)).splitlines()


def _rebuild_error(error_type: type[GrError], args: tuple[Any, ...], state: dict[str, Any]) -> GrError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(state)
    return error


class ConfigError(GrError):
    """An invalid setting.

    Args:
        field: Dotted name of the setting.
        value: Its value.
        allowed: What is wrong, or what is allowed.
        remedy: What to try instead.
    """

    exit_code = 2

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "") -> None:
        text = "null" if value is None else str(value)
        super().__init__(f"{field}={text}: {allowed}" + (f"; {remedy}" if remedy else ""))
        self.field, self.value = field, value

    def reworded(self, text: str) -> ConfigError:
        """The same error with another message."""
        error = copy.copy(self)
        error.args = (text,)
        return error


class DataError(GrError):
    """A data set is missing, damaged or of an unexpected shape."""

    exit_code = 2


class SizeError(GrError):
    """The requested run does not fit into memory."""

    exit_code = 2


class FolderError(GrError):
    """A run folder can't be read, written or resumed."""

    exit_code = 2


class DamagedCheckpointError(FolderError):
    """A checkpoint does not match its checksum or structure."""


class OccupiedFolderError(FolderError):
    """A folder can't hold a run, because it holds something else."""


class WriteError(GrError):
    """A file can't be written: disk full, or folder read-only."""


class CompositionError(GrError):
    """The command line can't be composed to a config."""

    exit_code = 2


class TrainingError(GrError):
    """Training failed, for example by a loss that is not finite."""

    @classmethod
    def diverged(cls, what: str, value: float, task: int, iteration: int) -> TrainingError:
        """The error for a value that is not finite."""
        return cls(f"{what} is {value} in task {task} at iteration {iteration}; try a lower optimizer.lr")


class OutOfMemoryError(GrError):
    """Out of memory, on the host or the GPU."""


class AuditError(GrError):
    """An audit found training samples that the run must not store."""


class IncompleteAuditError(GrError):
    """An audit could not read some files, and found nothing in the others."""

    exit_code = 3


class Interrupted(GrError):
    """The run was interrupted after its state was saved.

    Args:
        folders: Folders of the interrupted runs.
        trusted_names: Names that resuming has to trust.
    """

    exit_code = 130
    run_state = "interrupted"

    def __init__(self, folders: Sequence[Path], trusted_names: Sequence[str] = ()) -> None:
        arguments = [f"resume={folder}" for folder in folders] + (
            [f"trust={','.join(trusted_names)}"] if trusted_names else []
        )
        remedy = f"resume with: gr-run {shlex.join(arguments)}" if len(folders) == 1 else "repeat the command"
        super().__init__(f"interrupted; {remedy}")


class Pruned(GrError):
    """A trial of a search was ended early because it does worse than others; this is no failure."""

    exit_code = 0
    run_state = "pruned"


class Stop(BaseException):
    """Carries an error through Hydra, which would swallow an Exception or print its traceback.

    A BaseException, so that `except Exception` does not catch it.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def as_failure(error: Exception) -> GrError:
    """An error as the failure of one run among several, with a message of one line."""
    return error if isinstance(error, GrError) else TrainingError(f"{type(error).__name__}: {one_line(error)}")


# Control characters, and characters that change the direction or look of the surrounding text.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def one_line(text: object) -> str:
    """`text` on one line, control characters escaped."""
    line = " ".join(str(text).replace("\t", " ").splitlines())
    return _CONTROL.sub(_escape, line)


def display_name(name: str, max_length: int = 60) -> str:
    """A name that can be printed, plotted and written: control characters escaped, at most `max_length` characters.

    Longer names are cut and end in a hash, so that they stay distinct.
    """
    escaped = _CONTROL.sub(_escape, name).replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
    if len(escaped) <= max_length:
        return escaped
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{escaped[: max_length - len(digest) - 1]}…{digest}"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def truncate(text: str, max_length: int = 60) -> str:
    """`text` cut to at most `max_length` characters."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """`did you mean 'x'?` if one of `choices` is close to `word`, else the empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
