"""The pictures that a run leaves. One that can't be drawn is left out, which is told: the run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gr_cli.errors import GrError
from gr_cli.results.folder import RunFolder
from gr_cli.system.messages import tell
from gr_cli.training.experiment import Experiment
from gr_cli.training.learner import Learner

SAMPLES_SHOWN = 50


@contextmanager
def _left_out_if_it_fails(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except GrError:
        raise
    except Exception as error:
        tell(f"{folder.path}: a picture can't be drawn, and is left out ({type(error).__name__}: {error})")


def draw_samples(experiment: Experiment, learner: Learner, replica: int, folder: RunFolder, task: int) -> None:
    """A grid of what the generator of a run, a replica of `learner`, dreams after `task`, if these can be drawn."""
    if learner.generators is None or not experiment.benchmark.spec.can_be_drawn:
        return
    with _left_out_if_it_fails(folder):
        from gr_cli.results import figures

        generator = learner.strategy.dreamer(replica, learner.generators.modules[replica])
        draws = learner.draws[replica]
        x = generator.generate(SAMPLES_SHOWN, generator=draws.generator("figure", task))
        title = f"{SAMPLES_SHOWN} samples that the generator dreams after task {task}"
        spec = experiment.benchmark.spec
        figures.samples(spec.preview(x), title, folder.figures / f"samples_task_{task}.png", names=spec.names)


def draw_matrix(experiment: Experiment, folder: RunFolder) -> None:
    """The accuracy matrix as a heat map, and as curves."""
    with _left_out_if_it_fails(folder):
        from gr_cli.results import figures

        rows = {after: accuracies for after, accuracies in experiment.record.rows().items() if after >= 0}
        names = [task.name for task in experiment.benchmark.tasks]
        title = experiment.settings.title
        figures.matrix(rows, names, title, folder.figures / "accuracy_matrix.png")
        figures.curves(rows, names, title, folder.figures / "accuracy_curves.png")
