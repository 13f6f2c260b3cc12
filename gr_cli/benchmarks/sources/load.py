"""Where samples come from. A source answers `load()`; it knows nothing of tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Samples, stratified_mask
from gr_cli.benchmarks.sources.base import Dataset, LocatedSource, Source
from gr_cli.benchmarks.sources.validation import validate
from gr_cli.errors import DataError, display_name
from gr_cli.nn.random_streams import RandomStreams, StreamNames

# The names of classes of data sets that were found sound: the runs of a sweep share one, which is looked at once.
_validated: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load_dataset(source: Source) -> Dataset:
    """The data set of `source`, if there is nothing wrong with it; every benchmark gets its data from here.

    Raises:
        DataError: it can't be had, or can't be learnt from.
    """
    what, remedy = f"benchmark.source={type(source).__name__}", "mend its load()"
    if isinstance(source, LocatedSource):
        what, remedy = source.location, source.remedy
    if not callable(getattr(source, "load", None)):
        raise DataError(f"{what}: has no load(), by which a source gives its Data")
    try:
        data = source.load()
    except OSError as error:
        raise DataError(f"{what}: can't be read ({error_summary(error)}); see to it that the file is there") from error
    if not isinstance(data, Dataset):
        raise DataError(f"{what}: its load() gave something of type {type(data).__name__}, not Data; {remedy}")
    if data not in _validated:
        _validated[data] = _readable_names(validate(data, what, remedy), what, remedy)
    names = _validated[data]
    return data if names == data.classes else replace(data, classes=names)


def _readable_names(data: Dataset, what: str, remedy: str) -> tuple[str, ...]:
    """The names of all classes as they may be shown anywhere.

    Raises:
        DataError: two are the same.
    """
    names = tuple(map(display_name, data.classes))
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise DataError(f"{what}: two of its classes have the same name, {twice[0]}; {remedy}")
    return names


def train_test_split(store: Tensor, y: Tensor, test_share: float, seed: int) -> tuple[Samples, Samples]:
    """Samples without a test part of their own as training and test part: `share` of each class, at least one sample,
    is for testing. They go on sharing the store."""
    test = stratified_mask(
        y, test_share, RandomStreams(seed).permutation(StreamNames.TEST_SPLIT, n=len(y)), min_per_class=1
    )
    train, test = (part.nonzero().squeeze(1) for part in (~test, test))
    return Samples(store, y[train], index=train), Samples(store, y[test], index=test)


def error_summary(error: Exception) -> str:
    """An error in a few words: its first line that says something, which one that ends in a colon does not."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return " ".join(lines[0].split())[:120] if lines else type(error).__name__
