"""A run and its results, read from its folder."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gr_cli.config.groups import NAME_GROUPS
from gr_cli.config.instantiate import foreign_targets
from gr_cli.config.own_components import LiveParts
from gr_cli.config.settings import Settings
from gr_cli.errors import GrError
from gr_cli.python.own_parts import split_parts
from gr_cli.python.pictures import figure_files, picture_html, summary_html, table_html, text_html
from gr_cli.results.folder import RunFolder
from gr_cli.results.stored_config import check_unchanged, edited_code, stored_choices, stored_settings

if TYPE_CHECKING:
    from gr_cli.results.charts import Figure
    from gr_cli.results.frames import DataFrame
    from gr_cli.runner.forget import Forgotten
    from gr_cli.runner.load import Networks
    from gr_cli.runner.released import Release

_MAX_SHOWN_TASKS = 12  # of a matrix that is shown in full


class Run:
    """A run: its configuration, tables as pandas data frames, figures and networks.

    Tables and networks are read when they are first asked for, and kept; `gr_cli.load_run` reads them anew.

    Attributes:
        folder: Folder of the run.
        config: Configuration as nested dicts.
        choices: The chosen option of each config group.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        trust: Collection[str] = (),
        parts: LiveParts = MappingProxyType({}),
        is_own: bool = False,
    ) -> None:
        self.folder, self._settings, self._trust = folder.absolute(), settings, trust
        self._parts, self._is_own = parts, is_own
        if settings is None:
            self.config, self.choices = stored_choices(folder)
        else:
            self.config, self.choices = settings.config, settings.choices
        self._files = RunFolder(self.folder)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["seed"])

    @property
    def state(self) -> str:
        """`finished`, `failed`, `interrupted`, `running`, `killed` or `not started`, as of now."""
        return self._files.state()

    @property
    def status(self) -> dict[str, Any]:
        """Content of status.json, as of now: versions, device, command, reason of a failure."""
        return self._files.status() or {}

    # --- tables

    @cached_property
    def tables(self) -> Mapping[str, DataFrame]:
        """Every table of the folder by name, read when it is asked for."""
        return _Tables(self._files)

    @cached_property
    def matrix(self) -> DataFrame:
        """Test accuracy in [0, 1]: a row per trained task, a column per task; NaN where it was not evaluated."""
        from gr_cli.results.frames import matrix_frame

        return matrix_frame(self._files)

    @property
    def metrics(self) -> DataFrame:
        """Average accuracy, forgetting and so on: a row per metric with its `value`."""
        return self.tables["metrics"]

    @property
    def history(self) -> DataFrame:
        """Mean losses, by task and iteration."""
        return self.tables["history"]

    @property
    def evaluations(self) -> DataFrame:
        """Accuracy and loss, by task trained last, iteration, evaluated task and split."""
        return self.tables["evaluations"]

    @property
    def sample_quality(self) -> DataFrame:
        """Quality of generated samples, by task trained last and task; for runs with a generator."""
        return self.tables["sample_quality"]

    @property
    def timing(self) -> DataFrame:
        """Seconds and memory, by task."""
        return self.tables["timing"]

    # --- networks

    @cached_property
    def _networks(self) -> Networks:
        from gr_cli.runner.load import load_networks

        settings = self._full_settings()
        if self._settings is None and (edited := edited_code(settings.config)):
            warnings.warn(f"{edited} was edited since the run; its networks are built by the new code", stacklevel=3)
        return load_networks(settings, self._files)

    def _full_settings(self) -> Settings:
        """The settings, with the objects that were passed from Python."""
        if self._settings is not None:
            return self._settings
        trust = foreign_targets(self.config) if self._is_own else self._trust
        return replace(stored_settings(self.folder, trust), live=self._parts)

    @property
    def solver(self) -> Any:
        """The classifier, a `torch.nn.Module` on the CPU in evaluation mode.

        Raises:
            FolderError: There is no checkpoint, or the folder names code that is not trusted.
        """
        return self._networks.solver

    @property
    def generator(self) -> Any:
        """The generator that replay samples from; None without a generator.

        Raises:
            FolderError: There is no checkpoint, or the folder names code that is not trusted.
        """
        return self._networks.generator

    def forget(
        self,
        classes: Sequence[str | int] = (),
        tasks: Sequence[int] = (),
        samples: Any = None,
        label: str | int | None = None,
    ) -> Forgotten:
        """Forget classes, tasks, classes of certain tasks, or single samples, as `gr-run forget=` does.

        Solver and generator that are asked for afterwards have forgotten them; tables stay as they are.

        Args:
            classes: Names of classes.
            tasks: Tasks, from 0.
            samples: Single samples as the strategy had them: a file, or an array or tensor.
            label: Name of their class.

        Returns:
            What was forgotten, which files were deleted, and what may still hold it.

        Raises:
            ConfigError: The run has no such class or task, or does not keep apart what came of it.
            DataError: Samples can't be read, or can't have been in the stream.
            FolderError: The run is not finished, or something was fitted on these samples together with others.
        """
        from gr_cli.runner.forget import forget
        from gr_cli.runner.forget_request import Selection

        name = None if label is None else str(label)
        selection = Selection([str(each) for each in classes], tasks, samples, name)
        result = forget(self.folder, selection, settings=self._full_settings())
        self.__dict__.pop("_networks", None)  # the cached ones
        return result

    def release(self, to: str | Path | None = None) -> Release:
        """Write what the run's claim of privacy covers to a new folder, as `gr-run release=` does.

        Args:
            to: The new folder; None: beside that of the run.

        Returns:
            The release, as `gr_cli.load_release` loads it.

        Raises:
            ConfigError: The run claims no privacy.
            FolderError: It is not finished, its claim is void, or the new folder exists.
        """
        from gr_cli.runner.release import release
        from gr_cli.runner.released import Release

        settings = self._full_settings()
        released = release(self.folder, None if to is None else Path(to), settings=settings)
        return Release(released.folder, foreign_targets(settings.config))

    # --- figures

    @property
    def figures(self) -> dict[str, Path]:
        """PNG files of the figures by name: accuracy_matrix, accuracy_curves, samples_task_0, ..."""
        return figure_files(self._files.figures)

    def plot(self, name: str = "accuracy_matrix") -> Figure:
        """A figure of the run to look at, restyle and save; a notebook shows it.

        It is a `matplotlib.figure.Figure` that pyplot does not know: `figure.axes[0].set_title("...")`,
        `figure.savefig("matrix.pdf")`.

        Args:
            name: `accuracy_matrix`, `accuracy_curves`, `losses`, an evaluation's table such as `sample_quality`, or a
                picture of `figures`.

        Raises:
            FolderError: There is no such figure, or what it shows can't be read.
        """
        from gr_cli.python.plots import run_figure

        return run_figure(self.folder, name, self.figures)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.state})"

    def _repr_html_(self) -> str:
        options = [self.choices[name] for name in NAME_GROUPS if name in self.choices]
        title = " · ".join([*options, f"{self.config.get('scenario')}-incremental", f"seed {self.seed}"])
        try:
            blocks = [table_html(self.metrics["value"].dropna().to_frame())]
            if "accuracy_matrix" in self.figures:
                blocks.append(
                    picture_html(self.figures["accuracy_matrix"], "accuracy on each task after each training")
                )
            else:
                blocks.append(table_html(100 * self.matrix.iloc[-_MAX_SHOWN_TASKS:, -_MAX_SHOWN_TASKS:]))
        except GrError as error:  # before the first task, or damaged
            blocks = [text_html(error)]
        return summary_html(title, self.state, self.folder, blocks)


class _Tables(Mapping[str, "DataFrame"]):
    """The tables of a folder, each read when it is first asked for."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._read = folder, dict[str, "DataFrame"]()

    def __getitem__(self, name: str) -> DataFrame:
        from gr_cli.results.frames import table_frame

        if name not in self._read:
            self._read[name] = table_frame(self._folder, name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        from gr_cli.results.frames import table_names

        return iter(table_names(self._folder))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))

    def __repr__(self) -> str:
        return f"tables of {self._folder.path}: {', '.join(self)}"


def load_run(folder: str | Path, trust: str | Collection[str] = (), model: Any = None, generator: Any = None) -> Run:
    """A run from its folder. Nothing that the folder names is imported before its networks are asked for.

    Args:
        folder: Folder of the run. It need not be finished.
        trust: Dotted names of components, or of packages that contain them, that may be imported for the networks
            although they are not part of this program.
        model: The object that was passed to `gr_cli.run` as model, for the networks.
        generator: The same for the generator.

    Raises:
        FolderError: There is no run, or its configuration was damaged or changed.
    """
    _, parts, _ = split_parts({"model": model, "generator": generator})
    names = [trust] if isinstance(trust, str) else trust  # a string is a collection of letters
    run = Run(Path(folder), trust=names, parts=parts)
    check_unchanged(run.folder)
    return run
