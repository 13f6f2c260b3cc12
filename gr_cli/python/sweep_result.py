"""The runs of a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from gr_cli.config.own_components import LiveParts
from gr_cli.errors import GrError
from gr_cli.python.pictures import table_html, text_html
from gr_cli.python.run_result import Run

if TYPE_CHECKING:
    from gr_cli.results.charts import Figure
    from gr_cli.results.frames import DataFrame


class Sweep(Sequence[Run]):
    """The runs of a sweep, in the order of its jobs. Runs that have not started are left out.

    Attributes:
        folder: Folder of the sweep, which `gr-report` reads; None if the sweeper searches adaptively.
    """

    def __init__(self, folders: Iterable[Path], folder: Path | None, parts: LiveParts) -> None:
        self.folder = None if folder is None else folder.absolute()
        self._runs = [Run(path, parts=parts, is_own=True) for path in folders if (path / "config.yaml").is_file()]

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | Sequence[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    @cached_property
    def results(self) -> DataFrame:
        """A row per run, as `gr_cli.load_results` returns them, in the order of the runs."""
        from gr_cli.python.many_runs import load_results
        from gr_cli.results.frames import rows_frame

        folders = [str(run.folder) for run in self]
        if not folders:  # for which `load_results` would read every run there is
            return rows_frame([], "folder")
        results = load_results(*folders)
        return results.loc[[folder for folder in folders if folder in results.index]]

    def plot(self, metric: str = "average_accuracy") -> Figure:
        """A chart of a metric: by the first numeric setting that varies, else by configuration.

        It is a `matplotlib.figure.Figure`, as that of `Run.plot`.

        Raises:
            ConfigError: There is no such metric.
            FolderError: No run has finished.
        """
        from gr_cli.python.plots import comparison_figure

        return comparison_figure([run.folder for run in self], metric)

    def __repr__(self) -> str:
        return f"Sweep({len(self)} runs, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        try:
            return table_html(self.results.reset_index(drop=True))
        except GrError as error:  # no run can be read
            return text_html(error)
