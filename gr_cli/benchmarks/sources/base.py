"""What a source of samples is, and the data set that it loads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from annotated_types import Gt, Lt

from gr_cli.benchmarks.base import Samples
from gr_cli.nn.sample_spec import SampleSpec

TestShare = Annotated[float, Gt(0), Lt(1)]


@dataclass(frozen=True)
class Dataset:
    """A data set: its training and test part, labels counting from 0 in the order of `classes`.

    Samples are what `spec` says, once they are floats. Each class has samples in both parts.
    """

    train: Samples
    test: Samples
    classes: tuple[str, ...]
    spec: SampleSpec


@runtime_checkable
class Source(Protocol):
    """Anything that can load a data set."""

    def load(self) -> Dataset:
        """The data set, on the CPU."""
        ...


@runtime_checkable
class LocatedSource(Protocol):
    """A source that can say where its data lie, and what to do if they are broken: for errors, which name both."""

    location: str
    remedy: str
