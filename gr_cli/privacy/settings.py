"""The privacy budget that a component may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class PrivacySettings:
    """A budget of differential privacy. Neighbouring data sets differ by one sample that is added or removed.

    A component that gets these settings may spend `epsilon` and `delta` on each sample, in all tasks together. If
    several components of a run read raw samples, each gets its share.

    Attributes:
        epsilon: Budget ε.
        delta: Budget δ.
        unit: What is protected: one training sample.
        across: `tasks`: no sample is in two tasks, and their budgets compose in parallel; `stream`: a sample may be in
            all of them, and their budgets add up.
        secure: Whether noise is drawn from the operating system's generator instead of the run's seed.
        sampling_rate: Probability with which a step of DP-SGD reads a sample; None: not set.
        tasks_per_sample: Largest number of tasks that a sample may be in: 1 with `across="tasks"`.
    """

    epsilon: float
    delta: float = 1e-5
    unit: Literal["sample"] = "sample"
    across: Literal["tasks", "stream"] = "tasks"
    secure: bool = False
    sampling_rate: float | None = None
    tasks_per_sample: int = 1

    @classmethod
    def from_config(cls, section: Mapping[str, Any], num_tasks: int) -> PrivacySettings | None:
        """The budget of the settings `privacy.*`; None for a run without one.

        Args:
            section: The settings.
            num_tasks: Number of tasks of the stream.
        """
        if section["epsilon"] is None:
            return None
        return cls(**section, tasks_per_sample=num_tasks if section["across"] == "stream" else 1)

    def share(self, components: int) -> PrivacySettings:
        """The budget of one of several components that read the same samples; their shares add up to the budget."""
        return replace(self, epsilon=self.epsilon / components, delta=self.delta / components)
