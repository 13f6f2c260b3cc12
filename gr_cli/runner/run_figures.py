"""Figures of a run. A figure that can't be drawn is skipped with a message; it doesn't end the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gr_cli.errors import GrError
from gr_cli.nn.random_streams import StreamNames
from gr_cli.results.folder import RunFolder
from gr_cli.system.messages import print_status
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

NUM_SAMPLES_DRAWN = 50


@contextmanager
def _skipping_failed_figure(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except GrError:
        raise
    except Exception as error:
        print_status(f"{folder.path}: a figure can't be drawn and is skipped ({type(error).__name__}: {error})")


def draw_samples(experiment: Experiment, learner: Learner, replica: int, folder: RunFolder, task: int) -> None:
    """Draw samples that the generator of a replica generates after `task` (from 0), if they have a preview."""
    if learner.generators is None or not experiment.benchmark.spec.has_preview:
        return
    with _skipping_failed_figure(folder):
        from gr_cli.results import figures

        generator = learner.strategy.sampling_generator(replica, learner.generators.modules[replica])
        streams = learner.random_streams[replica]
        x = generator.generate(NUM_SAMPLES_DRAWN, generator=streams.generator(StreamNames.SAMPLE_PICTURES, task))
        title = f"{NUM_SAMPLES_DRAWN} generated samples after task {task}"
        spec = experiment.benchmark.spec
        figures.draw_sample_sheet(spec.preview(x), title, folder.sample_figure(task), names=spec.names)


def draw_matrix(experiment: Experiment, folder: RunFolder) -> None:
    """Draw the accuracy matrix as a heat map and as curves."""
    with _skipping_failed_figure(folder):
        from gr_cli.results import figures

        rows = {
            after: accuracies for after, accuracies in experiment.record.accuracy_by_training().items() if after >= 0
        }
        names = [task.name for task in experiment.benchmark.tasks]
        title = experiment.settings.title
        figures.draw_accuracy_matrix(rows, names, title, folder.figures / "accuracy_matrix.png")
        figures.draw_accuracy_curves(rows, names, title, folder.figures / "accuracy_curves.png")
