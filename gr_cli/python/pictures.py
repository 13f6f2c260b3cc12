"""Pictures and HTML of runs, for notebooks."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from gr_cli.errors import FolderError, one_line
from gr_cli.system.reading import read_bytes, read_error_reason

if TYPE_CHECKING:
    from gr_cli.results.frames import DataFrame

_MAX_PICTURE_BYTES = 32 << 20


def picture_html(path: Path, alt: str) -> str:
    """An element of HTML with the PNG picture of a file in it.

    Raises:
        FolderError: It can't be read.
    """
    try:
        data = base64.b64encode(read_bytes(path, _MAX_PICTURE_BYTES)).decode("ascii")
    except (OSError, ValueError) as error:
        raise FolderError(f"{path}: can't be read ({read_error_reason(error)}); remove it") from error
    return f'<img style="max-width: 420px" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def figure_files(folder: Path) -> dict[str, Path]:
    """The PNG files of a run's folder of figures by name; none if that folder is a link."""
    if folder.is_symlink():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.png"), key=_natural_order)}


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key in which numbers in a name count by their value."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]{1,9})", path.stem)]


def summary_html(title: str, state: str, folder: Path, blocks: Sequence[str]) -> str:
    """A run as HTML.

    Args:
        title: Its options and seed.
        state: Its state.
        folder: Its folder.
        blocks: HTML of what is shown side by side.
    """
    heading = f"<b>{text_html(title)}</b> ({text_html(state)})<br><code>{text_html(folder)}</code>"
    inner = "".join(f"<div>{block}</div>" for block in blocks)
    return f'<div>{heading}<div style="display: flex; gap: 2em; flex-wrap: wrap">{inner}</div></div>'


def text_html(value: object) -> str:
    """A text for HTML on one line; a folder may come from anywhere."""
    return escape(one_line(value))


def table_html(frame: DataFrame) -> str:
    """A data frame as HTML."""
    return str(frame.to_html(float_format=lambda value: f"{value:.4g}", na_rep="–", border=0, escape=True))
