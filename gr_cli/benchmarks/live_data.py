"""Data that are passed from Python as objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gr_cli.benchmarks.base import Benchmark
from gr_cli.benchmarks.sources.base import Dataset, Source, TestShare
from gr_cli.benchmarks.sources.categories import Categories
from gr_cli.benchmarks.sources.tensors import ChannelLayout, Tensors, ValueRange
from gr_cli.types import NonNegativeInt


def live_benchmark(live: Callable[[str, str, str], Any], live_name: str, live_hash: str) -> Benchmark:
    """A stream of tasks that was passed from Python.

    Args:
        live: Returns the object.
        live_name: Its name.
        live_hash: Hash of its content.
    """
    benchmark: Benchmark = live("benchmark", live_name, live_hash)
    return benchmark


def live_tensors(
    live: Callable[[str, str, str], Any],
    live_name: str,
    live_hash: str,
    test_share: TestShare = 0.2,
    test_seed: NonNegativeInt = 0,
    value_range: ValueRange | Literal["auto"] | None = "auto",
    standardise: bool = False,
    layout: ChannelLayout = "auto",
    categories: Categories | None = None,
) -> Source:
    """A data set that was passed from Python: tensors, arrays or a source.

    Args:
        live: Returns the object.
        live_name: Its name.
        live_hash: Hash of its content.
        test_share: Share of each class that becomes the test set, where there are no test samples.
        test_seed: Seed of that test split, independent of the run's seed.
        value_range: `[low, high]` of the values, scaled to [0, 1]; null: unbounded values, unchanged; `auto`: [0, 1] if
            all floats lie in it, else null.
        standardise: Scale each channel, or each entry of a vector, to mean 0 and variance 1 over the training set.
        layout: Axis of the channels of 4-dimensional arrays; `auto`: the one of size 1 or 3.
        categories: Categorical columns of vectors, by index.
    """
    source: LiveSource = live("benchmark.source", live_name, live_hash)
    return source.with_settings(
        test_share=test_share,
        test_seed=test_seed,
        value_range=value_range,
        standardise=standardise,
        layout=layout,
        categories=categories,
    )


class LiveSource:
    """Samples and labels in memory, as a source for each choice of settings; the runs of a sweep share it.

    Args:
        arrays: Samples and labels for training, and optionally for testing.
    """

    def __init__(self, *arrays: Any) -> None:
        self._arrays, self._sources = arrays, dict[str, Tensors]()

    def with_settings(self, **settings: Any) -> Source:
        """The source with settings of `Tensors`."""
        key = repr(sorted(settings.items()))
        if key not in self._sources:
            self._sources[key] = Tensors(*self._arrays, **settings)
        return self._sources[key]


class LoadedSource(LiveSource):
    """A data set, or a source, that is used as it is.

    Args:
        source: Returns the data set.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def with_settings(self, **settings: Any) -> Source:
        return self._source


class DatasetSource:
    """A data set as a source."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def load(self) -> Dataset:
        """The data set."""
        return self._data
