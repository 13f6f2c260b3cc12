"""One access to raw samples, and what offers private accesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Access:
    """One access to the raw samples of a task, by a mechanism that bounds what it reveals.

    Attributes:
        task: Task, from 0.
        part: What reads the samples: `generator`, `solver`, or `generator.<objective>`.
        classes: Output units of the samples that are read. Accesses to different classes compose in parallel.
        mechanism: `gaussian`, or `subsampled_gaussian` for steps on Poisson samples.
        noise_multiplier: Standard deviation of the noise, divided by the sensitivity.
        sensitivity: Largest L2 distance of the values of two neighbouring data sets.
        sampling_rate: Probability with which a step reads a sample; 1: all are read.
        steps: Number of steps, each with new noise.
        epsilon: ε of this access alone, at `delta`.
        delta: δ of this access alone.
    """

    task: int
    part: str
    classes: tuple[int, ...]
    mechanism: str
    noise_multiplier: float
    sensitivity: float
    sampling_rate: float
    steps: int
    epsilon: float
    delta: float

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise."""
        return self.noise_multiplier * self.sensitivity


@runtime_checkable
class PrivateMechanism(Protocol):
    """A component that reads raw samples by private mechanisms alone: a generator, or a gradient rule."""

    def private_accesses(self, task: int, classes: Sequence[int], part: str) -> list[Access]:
        """Its accesses in a task, a function of settings alone.

        Args:
            task: Task, from 0.
            classes: Output units of the task's samples.
            part: What is trained: `solver`, `generator`, or `generator.<objective>`.
        """
        ...
