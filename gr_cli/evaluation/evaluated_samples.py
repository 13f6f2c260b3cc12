"""The samples that a run evaluates again and again, kept as a solver reads them."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from gr_cli.benchmarks.base import Samples
from gr_cli.system.mapping import is_mapped
from gr_cli.training.experiment import Experiment

_MAX_BYTES = 1 << 28  # of samples that are kept as floats, in all runs of a group
SetKey = tuple[int, str]  # index of a task, and name of a split


class EvaluatedSamples:
    """The samples of all tasks and splits that a run evaluates.

    Permuting, rotating or scaling the samples of all tasks anew after each task would take as long as a small solver
    needs to classify them. So they are kept as floats, those of the first tasks if there are too many. They are test
    and validation samples; no training sample is among them.

    Args:
        experiment: The run.

    Attributes:
        label_units: The output units of the labels of each set, by key: bool (U,).
    """

    def __init__(self, experiment: Experiment) -> None:
        max_samples, num_units = experiment.settings.config["evaluate"]["samples"], experiment.task_units.shape[1]
        self._sets: dict[SetKey, Samples] = {}
        self.label_units: dict[SetKey, Tensor] = {}
        for task in experiment.benchmark.tasks:
            for name, split in task.evaluation_splits().items():
                samples = self._sets[task.id, name] = split.subsample(max_samples)
                self.label_units[task.id, name] = samples.y.bincount(minlength=num_units) > 0
        self._not_read = set(self._sets)
        self._free_bytes = _MAX_BYTES // experiment.learner.streams.replicas

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """The samples of a run; made once."""
        if experiment not in _evaluated_samples:
            _evaluated_samples[experiment] = cls(experiment)
        samples: Self = _evaluated_samples[experiment]
        return samples

    def get(self, task: int, split: str) -> Samples:
        """The samples of a task; as floats if there is memory for them."""
        key = task, split
        if key in self._not_read:
            self._not_read.remove(key)
            self._keep(key)
        return self._sets[key]

    def _keep(self, key: SetKey) -> None:
        samples = self._sets[key]
        # Pages of a mapped file are kept by the system.
        if len(samples) == 0 or is_mapped(samples.store):
            return
        if samples.index is None and samples.transform is None and samples.store.is_floating_point():
            return  # they are stored as they are read
        num_bytes = samples.batch(torch.zeros(1, dtype=torch.long, device=samples.y.device))[0].nbytes * len(samples)
        if num_bytes <= self._free_bytes:
            self._free_bytes -= num_bytes
            self._sets[key] = Samples(torch.cat([x for x, _ in samples.batches()]), samples.y)


_evaluated_samples: WeakIdKeyDictionary = WeakIdKeyDictionary()
