"""Progress bars in a notebook, which has no terminal to draw them in."""

from __future__ import annotations

import sys
from html import escape
from io import StringIO
from typing import Any

from rich.console import Console

from gr_cli.terminal.progress_bars import ProgressBars

_WIDTH = 110  # characters


def is_notebook() -> bool:
    """Whether what is printed appears in a notebook; it does not while stdout is redirected."""
    return Console().is_jupyter and type(sys.stdout).__module__.startswith("ipykernel")


class NotebookBars(ProgressBars):
    """Progress bars as one output of the cell, which each update replaces, and which is empty at the end.

    Args:
        several: Whether there are several bars, which then have labels.
    """

    def __init__(self, several: bool) -> None:
        console = Console(file=StringIO(), width=_WIDTH, force_jupyter=False, force_terminal=False)
        self._output: Any = None
        super().__init__(console, several)

    def start(self) -> None:
        """Show the bars."""
        from IPython import display

        show: Any = display.display
        self._output = show(self._html(), display_id=True)

    def update(self, *args: Any, **fields: Any) -> None:
        """Update a bar, and what is shown."""
        super().update(*args, **fields)
        if self._output is not None:
            self._output.update(self._html())

    def stop(self) -> None:
        """Remove the bars."""
        if self._output is not None:
            self._output.update(_html(""))
            self._output = None

    def _html(self) -> Any:
        with self.console.capture() as capture:
            self.console.print(self.get_renderable())
        lines = "\n".join(line.rstrip() for line in capture.get().splitlines())
        return _html(f'<pre style="line-height: normal">{escape(lines)}</pre>')


def _html(text: str) -> Any:
    from IPython import display

    make: Any = display.HTML
    return make(text)
