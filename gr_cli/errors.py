"""Everything this package raises on purpose. One root, so that a caller can catch it all."""

from __future__ import annotations

import difflib
import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class GrError(Exception):
    """Root of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Comes back from another process as it was, whatever its `__init__` asks for."""
        return _rebuild_error, (type(self), self.args, self.__dict__)


def _rebuild_error(error_type: type[GrError], args: tuple[Any, ...], state: dict[str, Any]) -> GrError:
    error = error_type.__new__(error_type, *args)
    error.__dict__.update(state)
    return error


class ConfigError(GrError):
    """The user chose something that can't work: names the field, the value, what is allowed."""

    exit_code = 2

    def __init__(self, field: str, value: object, allowed: str, remedy: str = "") -> None:
        shown = "null" if value is None else str(value)
        super().__init__(f"{field}={shown}: {allowed}" + (f"; {remedy}" if remedy else ""))
        self.field, self.value = field, value


class DataError(GrError):
    """A data set is missing, broken or of another shape than the run needs."""

    exit_code = 2


class SizeError(GrError):
    """What was asked for does not fit into memory."""

    exit_code = 2


class FolderError(GrError):
    """A run folder can't be read, written or continued."""

    exit_code = 2


class DamagedCheckpointError(FolderError):
    """The state of a run is not the one that was written."""


class WriteError(GrError):
    """A file could not be written: the disk is full, the folder is read-only."""


class CompositionError(GrError):
    """The command line does not make a configuration."""

    exit_code = 2


class TrainingError(GrError):
    """Training could not go on, such as a loss that is not a number any more."""

    @classmethod
    def diverged(cls, what: str, value: float, task: int, iteration: int) -> TrainingError:
        """`what` is no finite number any more."""
        return cls(f"{what} is {value} in task {task} at iteration {iteration}; try a lower optimizer.lr")


class OutOfMemoryError(GrError):
    """The machine or its GPU has no memory left."""


class AuditError(GrError):
    """The folder of a run holds what the run says it does not keep."""


class IncompleteAuditError(GrError):
    """The folder of a run holds something that can't be read, and nothing else speaks against the run."""

    exit_code = 3


class Interrupted(GrError):
    """The run was asked to stop, and saved its state."""

    exit_code = 130
    interrupted = True

    def __init__(self, folders: Sequence[Path], trusted_names: Sequence[str] = ()) -> None:
        words = [f"resume={folder}" for folder in folders] + (
            [f"trust={','.join(trusted_names)}"] if trusted_names else []
        )
        how = f"go on with: gr-run {shlex.join(words)}" if len(folders) == 1 else "repeat the command"
        super().__init__(f"interrupted; {how}")


class Stop(BaseException):
    """Carries an error out through Hydra, which would swallow an ordinary exception or print lines of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def as_failure(error: Exception) -> GrError:
    """Any error as the failure of one run among others, in one line."""
    return error if isinstance(error, GrError) else TrainingError(f"{type(error).__name__}: {one_line(error)}")


# What a terminal obeys instead of showing it, and what changes the direction or the look of the text around it.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def one_line(text: object) -> str:
    """`text` on one line, as it may be shown anywhere: control characters that a value brought are written out."""
    line = " ".join(str(text).replace("\t", " ").splitlines())
    return _CONTROL.sub(_escape, line)


def display_name(name: str, max_length: int = 60) -> str:
    """A name that may be shown, drawn and written anywhere: control characters are written out, and of a long name
    there are its beginning and a digest, by which it differs from others."""
    plain = _CONTROL.sub(_escape, name).replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
    if len(plain) <= max_length:
        return plain
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain[: max_length - len(digest) - 1]}…{digest}"


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def truncate(text: str, max_length: int = 60) -> str:
    """`text` of at most so many characters."""
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"


def suggestion(word: str, choices: Iterable[str]) -> str:
    """`did you mean 'x'?` when a choice is close to `word`, else the empty string."""
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
