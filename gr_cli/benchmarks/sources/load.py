"""Loading and validating the data set of a source."""

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

# Class names of validated data sets; the runs of a sweep share a data set, which is validated once.
_validated: WeakIdKeyDictionary = WeakIdKeyDictionary()


def load_dataset(source: Source) -> Dataset:
    """The validated data set of `source`.

    Raises:
        DataError: The data can't be read, or is unsuitable for training.
    """
    location, remedy = f"benchmark.source={type(source).__name__}", "correct its load()"
    if isinstance(source, LocatedSource):
        location, remedy = source.location, source.remedy
    if not callable(getattr(source, "load", None)):
        raise DataError(f"{location}: has no load() that returns a Dataset")
    try:
        data = source.load()
    except OSError as error:
        raise DataError(f"{location}: can't be read ({error_summary(error)}); check that the file exists") from error
    if not isinstance(data, Dataset):
        raise DataError(
            f"{location}: its load() returned an object of type {type(data).__name__}, not a Dataset; {remedy}"
        )
    if data not in _validated:
        _validated[data] = _readable_names(validate(data, location, remedy), location, remedy)
    names = _validated[data]
    return data if names == data.classes else replace(data, classes=names)


def _readable_names(data: Dataset, location: str, remedy: str) -> tuple[str, ...]:
    """The class names without unprintable characters.

    Raises:
        DataError: Two classes have the same name.
    """
    names = tuple(map(display_name, data.classes))
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise DataError(f"{location}: two of its classes have the same name, {duplicates[0]}; {remedy}")
    return names


def train_test_split(store: Tensor, y: Tensor, test_share: float, seed: int) -> tuple[Samples, Samples]:
    """Split samples by class into a training and a test set that share the store.

    Args:
        store: Samples (N, ...).
        y: Labels (N,).
        test_share: Share of each class for testing; at least one sample.
        seed: Seed of the split.
    """
    test = stratified_mask(
        y, test_share, RandomStreams(seed).permutation(StreamNames.TEST_SPLIT, n=len(y)), min_per_class=1
    )
    train, test = (part.nonzero().squeeze(1) for part in (~test, test))
    return Samples(store, y[train], index=train), Samples(store, y[test], index=test)


def error_summary(error: Exception) -> str:
    """The first informative line of an error's message, or its type."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith(":")]
    return " ".join(lines[0].split())[:120] if lines else type(error).__name__
