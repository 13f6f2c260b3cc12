"""Random streams: every random number is a function of (seed, stream, task, block).

No generator state is carried along: the numbers of an iteration can be drawn without those before it. So
checkpoints need no generator states, and the numbers of a seed don't depend on other runs in the group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
Distribution = Literal["normal", "uniform"]
_BLOCK_ELEMENTS = 1 << 19  # numbers drawn at once: 2 MiB of float32, small enough to stay in cache


class StreamNames:
    """Names of the random streams.

    They are hashed into the seeds (`derive_seed`): changing one changes every published number. Some are prefixes.
    """

    # Benchmarks
    CLASS_ORDER = "class_order"
    PIXEL_PERMUTATION = "permutation"
    VALIDATION_SPLIT = "validation"
    TEST_SPLIT = "test_share"
    REPETITION_SPLIT = "rounds"
    OVERLAP_SELECTION = "blur.given"
    OVERLAP_EXCHANGE = "blur.exchange"
    LABELLED_SAMPLES = "labels.selected"
    LABEL_NOISE = "labels.noise"
    LABEL_NOISE_CLASS = "labels.noise.class"
    MEMBERSHIP = "membership"
    MEMBERSHIP_CANDIDATES = "membership.candidates"
    CANARIES = "canaries"
    CANARY_CLASSES = "canaries.classes"
    CANARY_FLIPS = "canaries.flips"
    GLYPH_STROKES = "glyphs"
    GLYPH_POINTS = "glyphs.points"
    GLYPH_DISTORTION = "glyphs.turn"
    # Initial weights
    SOLVER_INIT = "initialisation.solver"
    GENERATOR_INIT = "initialisation.generator"
    REFERENCE_CLASSIFIER_INIT = "initialisation.judge"
    FEATURES_INIT = "initialisation.features"
    FEATURES_OUTPUT_INIT = "initialisation.features.output"
    FEATURES_PATCHES = "features.patches"
    FEATURES_AUGMENTATION = "augment.features"
    # Training
    MEMBERSHIP_TRAINING = "membership.training"
    BATCH_ORDER = "order"
    POISSON_SAMPLES = "poisson"
    AUGMENTATION = "augment"
    SOLVER_NOISE = "solver"
    SOLVER_GLOBAL = "global"
    GRADIENT_RULE = "gradient_rule"
    FEEDBACK_NOISE = "generator.feedback"
    # Strategies
    EXEMPLARS = "exemplars"
    REPLAY_CHOICE = "replay.choice"
    EXEMPLAR_MIXING = "replay.among"
    RESERVOIR_PLACEMENT = "memory.place"
    MEMORY_CHOICE = "memory.choice"
    MEMORY_FILL = "memory"
    REPLAY = "replay"
    REPLAY_POOL = "pool"
    CLOSED_FORM_FIT = "fit"
    FISHER_SAMPLES = "fisher.samples"
    FISHER_LABELS = "fisher.labels"
    CLASS_LIKELIHOOD = "likelihood"
    RANDOM_PROJECTION = "projection"
    PSEUDO_FEATURES = "pseudo_features"
    # Evaluation
    EVALUATED_TASKS = "evaluated_tasks"
    SAMPLE_QUALITY = "dreams"
    SAMPLE_PICTURES = "figure"
    MEMBERSHIP_SCORES = "membership.scores"
    GENERATED_AUDIT = "audit.generated"
    TRAINER_LOADER = "loader"
    TRAINER_SHAPE = "shape"
    TRAINER_EVALUATION = "evaluation"


class NoiseSpec(NamedTuple):
    """Specification of the noise that a module takes.

    Attributes:
        distribution: `normal` (standard) or `uniform` (in [0, 1)).
        shape: Shape for one batch, without the replica axis.
    """

    distribution: Distribution
    shape: tuple[int, ...]


def derive_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for the stream named by `key`, the same on every machine."""
    # NumPy integers have another repr than equal Python integers.
    parts = tuple(int(part) if isinstance(part, np.integer) else part for part in (seed, *key))
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, *key: str | int) -> Iterator[None]:
    """Seed torch's global random state within the block, and restore it after."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(seed, *key))
        yield


@dataclass(frozen=True)
class RandomStreams:
    """The random streams of one run.

    Attributes:
        seed: The run's seed.
        device: Device of the tensors.
    """

    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def generator(self, stream: str, *key: int) -> torch.Generator:
        """A new generator at the start of the stream (`stream`, `key`)."""
        return torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, stream, *key))

    def draw(self, distribution: Distribution, stream: str, *key: int, shape: tuple[int, ...]) -> Tensor:
        """A float32 tensor of `shape` with the numbers of a stream."""
        make: Callable[..., Tensor] = torch.randn if distribution == "normal" else torch.rand
        return make(shape, generator=self.generator(stream, *key), device=self.device)

    def permutation(self, stream: str, *key: int, n: int) -> Tensor:
        """A permutation of 0..n-1: (n,), int64."""
        return torch.randperm(n, generator=self.generator(stream, *key), device=self.device)


class ReplicaStreams:
    """The random streams of R runs that are trained together; all tensors have a leading replica axis.

    Runs with the same seed get the same numbers. `values_at` draws in blocks of steps whose length depends on the shape
    only: four draws of a hundred numbers differ from one draw of four hundred. Blocks are cached; discarding the cache
    changes no number.

    Args:
        runs: The streams of each run.
        dtype: Type of the tensors, converted from float32.
    """

    def __init__(self, runs: Sequence[RandomStreams], dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = runs[0].device, dtype
        self._runs, self._distinct_runs = list(runs), list(dict.fromkeys(runs))
        self._distinct_index = torch.tensor([self._distinct_runs.index(run) for run in runs], device=self.device)
        self._blocks: dict[tuple[str, Distribution], tuple[tuple[object, ...], Tensor]] = {}

    @property
    def replicas(self) -> int:
        """Number of replicas R."""
        return self._distinct_index.shape[0]

    def generator(self, replica: int, stream: str, *key: int) -> torch.Generator:
        """A new generator at the start of a stream of one replica."""
        return self._runs[replica].generator(stream, *key)

    def draw(self, distribution: Distribution, stream: str, *key: int, shape: tuple[int, ...]) -> Tensor:
        """A tensor (R, *shape) with the numbers of a stream."""
        return self._expand_to_replicas(self._draw_distinct(distribution, stream, key, shape, 0), 0)

    def _draw_distinct(
        self, distribution: Distribution, stream: str, key: tuple[int, ...], shape: tuple[int, ...], axis: int
    ) -> Tensor:
        """The numbers of each distinct run, stacked along `axis`."""
        values = [run.draw(distribution, stream, *key, shape=shape).to(self.dtype) for run in self._distinct_runs]
        return values[0].unsqueeze(axis) if len(values) == 1 else torch.stack(values, axis)

    def _expand_to_replicas(self, values: Tensor, axis: int) -> Tensor:
        """From an axis of distinct runs to one of replicas."""
        if self.replicas == 1 or len(self._distinct_runs) == self.replicas:
            return values
        if len(self._distinct_runs) == 1:
            return values.expand(*values.shape[:axis], self.replicas, *values.shape[axis + 1 :])
        return values.index_select(axis, self._distinct_index)

    def _block(self, noise: NoiseSpec, stream: str, task: int, step: int) -> tuple[int, Tensor]:
        """The block that contains `step` of `task`: its first step, and its values (L, S, *noise.shape)."""
        elements = max(1, torch.Size(noise.shape).numel())
        length = max(1, min(64, _BLOCK_ELEMENTS // elements))
        block = step // length
        key = (task, block, noise.shape)
        cached = self._blocks.get((stream, noise.distribution))
        if cached is None or cached[0] != key:
            self._blocks.pop((stream, noise.distribution), None)  # free the old block before drawing the new one
            values = self._draw_distinct(noise.distribution, stream, (task, block), (length, *noise.shape), 1)
            cached = self._blocks[stream, noise.distribution] = (key, values)
        return block * length, cached[1]

    def values_at(self, noise: NoiseSpec, stream: str, task: int, step: int) -> Tensor:
        """Values (R, *noise.shape) of a stream for `step` of `task`."""
        first, values = self._block(noise, stream, task, step)
        return self._expand_to_replicas(values[step - first], 0)

    def block_at(self, noise: NoiseSpec, stream: str, task: int, step: int) -> tuple[int, Tensor]:
        """The block of values around `step`: its first step, and values (L, R, *noise.shape)."""
        first, values = self._block(noise, stream, task, step)
        return first, self._expand_to_replicas(values, 1)

    def noise_at(self, specs: Mapping[str, NoiseSpec], stream: str, task: int, step: int) -> dict[str, Tensor]:
        """Noise of a module for `step` of `task`, by name: (R, ...) each."""
        return {name: self.values_at(noise, f"{stream}.{name}", task, step) for name, noise in specs.items()}


class StepBlocks(Generic[T]):
    """Values of the steps of a task, computed for a block of steps at once.

    >>> blocks = StepBlocks[int]()
    >>> [blocks.at("task 0", step, lambda: (step, [step, step + 1])) for step in range(4)]
    [0, 1, 2, 3]
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._first, self._values = 0, cast(Sequence[T], ())

    def at(self, key: Hashable, step: int, compute: Callable[[], tuple[int, Sequence[T]]]) -> T:
        """The value of a step.

        Args:
            key: What the values depend on besides the step.
            step: Number of the step.
            compute: First step and values of the block that contains the step, if it is not the current one.
        """
        if self._key != key or not 0 <= step - self._first < len(self._values):
            self._first, self._values = compute()
            self._key = key
        return self._values[step - self._first]

    def from_step(self, step: int) -> Sequence[T]:
        """The values of the current block from a step on."""
        return self._values[step - self._first :]
