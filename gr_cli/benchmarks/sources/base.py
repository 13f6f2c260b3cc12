"""The interface of data sources, and the data set that they load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from annotated_types import Gt, Lt

from gr_cli.benchmarks.base import ExtractionCosts, Samples
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.nn.shared_fit import SharedFit

TestShare = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Dataset:
    """A data set with a training and a test split.

    Attributes:
        train: Training samples, at least one of each class.
        test: Test samples, at least one of each class.
        classes: Names of the classes; labels count from 0 in this order.
        spec: Shape, range and likelihood of the samples as floats.
        shared_fits: What was fitted on samples of several classes together, such as a scale.
        extraction: Costs of the feature extractor, where samples are features.
        files: Which files were read, where a source reads several layouts; else empty.
        classes_follow_labels: Whether `classes` are those that occur among the labels, and no list that is known
            without the data.
        format_follows_samples: Settings of the source, by name, whose values are chosen by the samples, such as a
            common size of images.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    spec: SampleSpec
    shared_fits: tuple[SharedFit, ...] = ()
    extraction: ExtractionCosts | None = None
    files: str = ""
    classes_follow_labels: bool = False
    format_follows_samples: tuple[str, ...] = ()


@runtime_checkable
class Source(Protocol):
    """A source of a data set: any object with `load()`. Streams divide what it loads into tasks.

        >>> import torch
        >>> from gr_cli.benchmarks import split
        >>> class TwoClusters:
        ...     def load(self):
        ...         y = torch.arange(40) % 2
        ...         x = torch.randn(40, 3) + y.unsqueeze(1)
        ...         train, test = Samples(x[:30], y[:30]), Samples(x[30:], y[30:])
        ...         return Dataset(train, test, ("left", "right"), SampleSpec((3,), value_range=None))
        >>> [(task.name, len(task.train)) for task in split(TwoClusters(), seed=0, classes_per_task=1).tasks]
        [('left', 15), ('right', 15)]

    In YAML it is `benchmark.source._target_=my_module.TwoClusters`.
    """

    def load(self) -> Dataset:
        """The data set, on the CPU."""
        ...


@runtime_checkable
class LocatedSource(Protocol):
    """A source that names its files in error messages.

    Attributes:
        location: Setting and path of the data, with which messages begin.
        remedy: What to do about damaged data, with which messages end.
    """

    location: str
    remedy: str
