"""Where samples come from. A source answers `load()`; it knows nothing of tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Samples, first_of_each
from gr_cli.benchmarks.sources.base import Data, Placed, Source
from gr_cli.benchmarks.sources.validation import checked
from gr_cli.errors import DataError, readable
from gr_cli.nn.random_streams import Draws

# The names of classes of data sets that were found sound: the runs of a sweep share one, which is looked at once.
_sound: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load(source: Source) -> Data:
    """The data set of `source`, if there is nothing wrong with it; every benchmark gets its data from here.

    Raises:
        DataError: it can't be had, or can't be learnt from.
    """
    what, remedy = f"benchmark.source={type(source).__name__}", "mend its load()"
    if isinstance(source, Placed):
        what, remedy = source.place, source.remedy
    if not callable(getattr(source, "load", None)):
        raise DataError(f"{what}: has no load(), by which a source gives its Data")
    try:
        data = source.load()
    except OSError as error:
        raise DataError(f"{what}: can't be read ({in_short(error)}); see to it that the file is there") from error
    if not isinstance(data, Data):
        raise DataError(f"{what}: its load() gave something of type {type(data).__name__}, not Data; {remedy}")
    if data not in _sound:
        _sound[data] = _readable_names(checked(data, what, remedy), what, remedy)
    names = _sound[data]
    return data if names == data.classes else replace(data, classes=names)


def _readable_names(data: Data, what: str, remedy: str) -> tuple[str, ...]:
    """The names of all classes as they may be shown anywhere.

    Raises:
        DataError: two are the same.
    """
    names = tuple(map(readable, data.classes))
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise DataError(f"{what}: two of its classes have the same name, {twice[0]}; {remedy}")
    return names


def tested_on(store: Tensor, y: Tensor, share: float, seed: int) -> tuple[Samples, Samples]:
    """Samples without a test part of their own as training and test part: `share` of each class, at least one sample,
    is for testing. They go on sharing the store."""
    test = first_of_each(y, share, Draws(seed).permutation("test_share", n=len(y)), least=1)
    train, test = (part.nonzero().squeeze(1) for part in (~test, test))
    return Samples(store, y[train], index=train), Samples(store, y[test], index=test)


def in_short(error: Exception) -> str:
    """An error in a few words: its first line that says something, which one that ends in a colon does not."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return " ".join(lines[0].split())[:120] if lines else type(error).__name__
