"""gr-run forget=<folder> drops classes and tasks, as if their samples had never come."""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

import gr_cli
from gr_cli.cli.completion import complete
from gr_cli.results.folder import RunFolder
from gr_cli.runner.forget import forget
from gr_cli.runner.forget_request import Selection
from gr_cli.training.experiment import prepare
from helpers.forgetting import learner_of_folder, same_state_and_scores, scores
from helpers.interruption import only_run
from helpers.shipped_methods import settings_of, train
from helpers.small_runs import assert_same

MIXTURE = ("strategy=generative_classifier", "generator=mixture", "generator.num_components=2", "threads=1")
MIXTURE += ("generator.latent_dim=8", "train.iterations=1", "evaluate.generated_samples=0")
CLOSED_FORM = ("strategy.keep=class", "train.iterations=1", "threads=1")
METHODS = {
    "mixture": MIXTURE,
    "gaussian": ("strategy=generative_classifier", "generator=gaussian", "generator.latent_dim=null"),
    "slda": ("strategy=slda", *CLOSED_FORM),
    "slda in fixed point": ("strategy=slda", "strategy.arithmetic=fixed_point", *CLOSED_FORM),
    "ncm": ("strategy=ncm",),
    "ranpac": ("strategy=ranpac", "strategy.projection_dim=16", *CLOSED_FORM),
    "fecam": ("strategy=fecam",),
}


def learner_without(words, dropped):
    """The learner after the stream of a run, in which the samples of some (task, class of the task) never come."""
    experiment = prepare(settings_of(*words))
    for i, stage in enumerate(experiment.stages):
        units = experiment.task_units[i].nonzero().squeeze(1)
        gone = [int(units[k]) for task, k in dropped if task == i]
        remaining = (~torch.isin(stage.train.y, torch.tensor(gone))).nonzero().squeeze(1)
        experiment.stages[i] = replace(stage, train=stage.train.select(remaining))
        if len(remaining):
            train([experiment], experiment.learner, i)
    return experiment


def methods_and_scenarios():
    """All methods in all scenarios; a mixture for each class needs classes of their own for each task."""
    pairs = [(method, scenario) for method in METHODS for scenario in ("class", "task", "domain")]
    return [pair for pair in pairs if pair not in (("mixture", "domain"), ("gaussian", "domain"))]


@pytest.mark.parametrize(("method", "scenario"), methods_and_scenarios())
@pytest.mark.parametrize(
    ("argument", "dropped"),
    [
        ("classes=[3]", [(1, 1)]),
        ("classes=[3,7]", [(1, 1), (3, 1)]),
        ("tasks=[2]", [(2, 0), (2, 1)]),
        ("tasks=[4]", [(4, 0), (4, 1)]),
    ],
)
def test_all_is_as_without_what_was_forgotten(gr_run, made, method, scenario, argument, dropped):
    words = (*METHODS[method], f"scenario={scenario}")
    folder = made(*words)
    before = learner_of_folder(folder)
    code, out, err = gr_run(f"forget={folder}", argument)
    assert (code, err) == (0, ""), err
    assert out.startswith("forgotten: class")
    experiment, after = learner_without(words, dropped), learner_of_folder(folder)
    same_state_and_scores(after, experiment.learner, experiment)
    of_before, of_after = scores(before, experiment), scores(after, experiment)
    assert not all(map(torch.equal, of_before, of_after))
    if scenario != "domain":  # where units are shared by the tasks
        units = [int(experiment.task_units[task].nonzero()[k]) for task, k in dropped]
        assert not any(torch.isin(each.argmax(1), torch.tensor(units)).any() for each in of_after)


def test_a_run_from_python_has_forgotten_afterwards(made):
    folder = made(*MIXTURE)
    run = gr_cli.load_run(folder)
    assert run.generator.learned_classes.all()
    result = run.forget(classes=[3, 8], tasks=[4])
    assert (result.entry["classes"], result.entry["tasks"], result.is_repeated) == (["8"], [4], False)
    assert run.generator.learned_classes.tolist() == [True] * 8 + [False, True]
    (entry,) = run.status["forgotten"]
    assert (entry["classes"], entry["tasks"]) == (["8"], [4])


def test_tables_stay_and_every_command_says_what_was_forgotten(gr_run, gr_audit, made):
    folder = made(*MIXTURE)
    tables = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert gr_run(f"forget={folder}", "classes=3")[0] == 0
    assert tables == {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    notice = "class 3 of task 1: forgotten at "
    for code, out, err in (gr_run(f"verify={folder}"), gr_audit(folder, "--raw-samples")):
        assert code == 0 and notice in out, (out, err)
    code, _, err = gr_run(f"resume={folder}")
    assert code == 0 and notice in err
    assert json.loads((folder / "status.json").read_text())["forgotten"][0]["classes"] == ["3"]
    # The checkpoint is what counts: a lost status is written again from it.
    (folder / "status.json").unlink()
    assert gr_run(*MIXTURE)[0] == 0
    assert RunFolder(folder).status()["forgotten"][0]["classes"] == ["3"]
    assert not learner_of_folder(folder).generator.learned_classes[3]


def test_a_second_call_does_nothing(gr_run, made):
    folder = made(*MIXTURE)
    assert gr_run(f"forget={folder}", "tasks=1")[0] == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for words in (("tasks=[1]",), ("classes=[3]",), ("classes=[2]", "tasks=[1]")):
        code, out, _ = gr_run(f"forget={folder}", *words)
        assert code == 0 and out.startswith("class") and "forgotten before; nothing to do" in out
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert gr_run(f"forget={folder}", "classes=[2,9]")[1].startswith("forgotten: classes 2, 9 of tasks 1, 4")


# --- killed in the middle


class Killed(BaseException):
    pass


class Kill:
    """Raises `Killed` at the n-th change of a file."""

    def __init__(self, patch, number):
        self.remaining = number
        for name in ("replace", "unlink"):
            patch.setattr(os, name, partial(self._change, getattr(os, name)))

    def _change(self, change, *arguments, **options):
        self.remaining -= 1
        if self.remaining == 0:
            raise Killed
        return change(*arguments, **options)


def test_a_run_that_is_killed_in_the_middle_has_forgotten_or_not(made, monkeypatch):
    """Killed at each change of a file; then the same call again."""
    folder, copy = made(*MIXTURE), Path("copy")
    (folder / "figures/samples_task_2.png").write_bytes(b"generated")
    (folder / "checkpoint.previous.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    forget(Path(shutil.copytree(folder, "complete")), Selection(["3"]))
    expected, still_known = learner_of_folder(Path("complete")).state_of(0), []
    for number in count(1):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        with monkeypatch.context() as patch, suppress(Killed):
            Kill(patch, number)
            assert not forget(copy, Selection(["3"])).is_repeated
            break
        still_known.append(bool(learner_of_folder(copy).generator.learned_classes[3]))
        assert forget(copy, Selection(["3"])).is_repeated != still_known[-1]
        assert_same(learner_of_folder(copy).state_of(0), expected)
        assert not (copy / "checkpoint.previous.pt").exists() and not (copy / "figures/samples_task_2.png").exists()
        assert [entry["classes"] for entry in RunFolder(copy).status()["forgotten"]] == [["3"]]
    assert len(still_known) >= 4 and still_known == sorted(still_known, reverse=True)
    assert set(still_known) == {True, False}


# --- what else holds it


def test_what_else_holds_it_is_deleted_or_listed(gr_run):
    assert gr_run(*MIXTURE)[0] == 0
    folder, cache = only_run(), Path("cache/features")
    for name in ("checkpoint.previous.pt", "checkpoint.next.pt"):
        shutil.copy(folder / "checkpoint.pt", folder / name)
    for name in ("samples_task_0.png", "samples_task_1.png", "samples_task_4.png", "accuracy_matrix.png", "own.png"):
        (folder / "figures" / name).write_bytes(b"")
    (folder / "tensorboard").mkdir()
    (folder / "export.npz").write_bytes(b"")
    (folder / "tracker.json").write_text(json.dumps({"mlflow http://server gr": {}}))
    cache.mkdir(parents=True)
    (cache / "f00.pt").write_bytes(b"")
    code, out, err = gr_run(f"forget={folder}", "classes=[3]")
    assert code == 0, err
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "samples_task_0.png",
        "accuracy_matrix.png",
        "own.png",
    }
    assert not list(folder.glob("checkpoint.*.pt"))
    deleted, *unchanged = [line for line in out.splitlines() if line.startswith(("deleted", "unchanged"))]
    assert "samples_task_1.png" in deleted and "samples_task_4.png" in deleted and "samples_task_0" not in deleted
    listed = [line.removeprefix("unchanged: ").rpartition(" (")[0] for line in unchanged]
    expected = [folder / "export.npz", folder / "tensorboard", folder / "figures/own.png", "mlflow http://server gr"]
    assert listed == [str(each) for each in (*expected, cache.absolute())]


def test_shadow_runs_and_scores_of_samples_are_listed(gr_run, gr_audit, made):
    folder = made(*MIXTURE, "train.tasks=2")
    assert gr_audit(folder, "--attacks", "--shadows", "6", "--candidates", "4")[0] == 0
    shadow, *others = [path.parent for path in (folder / "audit").rglob("status.json")]
    assert len(others) == 5 and learner_of_folder(shadow).generator.learned_classes[3]
    shutil.copy(next(shadow.glob("membership_scores_*.npz")), folder)
    scores_file = next(folder.glob("membership_scores_*.npz"))
    code, out, err = gr_run(f"forget={folder}", "classes=[3]")
    assert code == 0, err
    assert [line for line in out.splitlines() if line.startswith("unchanged") and str(folder) in line] == [
        f"unchanged: {folder / 'audit'} (shadow runs of gr-audit, trained on these samples, too, and their scores)",
        f"unchanged: {scores_file} (scores of single samples, for gr-audit)",
    ]


def test_a_release_of_the_run_is_listed_and_its_ledger_is_not(gr_run, made):
    words = ("strategy=generative_classifier", "generator=private_gaussian", "privacy.epsilon=10", "threads=1")
    folder = made(*words, "train.tasks=1", "evaluate.generated_samples=0")
    assert gr_run(f"release={folder}")[0] == 0
    code, out, err = gr_run(f"forget={folder}", "classes=[1]")
    assert code == 0, err
    unchanged = [line for line in out.splitlines() if line.startswith("unchanged")]
    (release,) = folder.parent.glob("*-release")
    assert f"unchanged: {release.absolute()} (a release of the run, as it was before)" in unchanged
    assert not [line for line in unchanged if "ledger" in line]


# --- refused


@pytest.mark.parametrize(
    ("words", "argument", "reason"),
    [
        (("strategy=finetune",), "classes=[3]", "the solver is trained by gradient steps"),
        (("strategy=er",), "tasks=[1]", "the strategy keeps a memory of samples"),
        (
            ("strategy=generative_classifier", "generator=class_vae", "generator.hidden_dims=[8]"),
            "classes=[3]",
            "the generator is trained by gradient steps",
        ),
        ((*MIXTURE, "normalise=first_task"), "classes=[0]", "inputs are normalised by mean and deviation of the first"),
        (
            (*MIXTURE, "benchmark=sklearn", "benchmark.source.name=wine", "benchmark.classes_per_task=1"),
            "tasks=[2]",
            "values are standardised over all training samples",
        ),
    ],
)
def test_what_was_fitted_on_other_samples_too_is_not_forgotten(gr_run, made, words, argument, reason):
    folder = made(*words, *(() if words[0] == MIXTURE[0] and words[1] == MIXTURE[1] else ("train.iterations=3",)))
    before = (folder / "checkpoint.pt").read_bytes()
    code, out, err = gr_run(f"forget={folder}", argument)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"because {reason}" in err and "; train a run without them" in err
    assert before == (folder / "checkpoint.pt").read_bytes()
    assert "forgotten" not in RunFolder(folder).status()


def test_what_is_not_kept_apart_is_not_forgotten(gr_run, made):
    folder = made("strategy=slda", "strategy.keep=task", "train.iterations=1", "threads=1")
    before = (folder / "checkpoint.pt").read_bytes()
    code, _, err = gr_run(f"forget={folder}", "classes=[3]")
    assert (code, err.strip()) == (
        2,
        "gr-run: strategy.keep=task: does not keep the second moments of each class; run with strategy.keep=class",
    )
    assert before == (folder / "checkpoint.pt").read_bytes()
    assert gr_run(f"forget={folder}", "tasks=[3]")[0] == 0


def test_later_tasks_are_forgotten_where_the_first_alone_was_fitted_on(gr_run, made):
    folder = made(*MIXTURE, "normalise=first_task")
    assert gr_run(f"forget={folder}", "classes=[3]")[0] == 0
    assert gr_run(f"forget={folder}", "classes=[0,9]")[0] == 2


def test_whole_tasks_are_forgotten_where_labels_are_noisy(gr_run, made):
    folder = made(*METHODS["slda"], "labels.noise=0.2")
    code, _, err = gr_run(f"forget={folder}", "classes=[3]")
    assert code == 2 and "because samples of a class have labels of others" in err
    assert gr_run(f"forget={folder}", "tasks=[1]")[0] == 0


def test_an_unfinished_run_is_not_changed(gr_run, made):
    words = ("strategy=finetune", "train.iterations=3", "threads=1")
    folder = made(*words, at=(2, 1))
    code, _, err = gr_run(f"forget={folder}", "classes=[0]")
    assert code == 2 and "is interrupted, and only a finished run can forget; finish it with resume=" in err


def test_a_folder_that_is_in_use_is_not_changed(gr_run, made):
    folder = made(*MIXTURE)
    with RunFolder(folder).locked():
        code, _, err = gr_run(f"forget={folder}", "classes=[3]")
    assert code == 2 and "another process is training this run" in err


def test_help_and_completion_know_the_arguments(gr_run):
    page = gr_run("--help")[1]
    assert "  gr-run forget=FOLDER ...  " in page and "    ...: classes=[3,7] tasks=[2] samples=FILE label=3" in page
    assert gr_run("forget=x", "classes=[3]", "--help")[0] == 0
    assert complete("forget=outputs/x c") == ["classes="]
    assert complete("forget=outputs/x ") == ["classes=", "tasks=", "samples=", "label=", "trust="]
    Path("one.npz").touch()
    assert complete("forget=outputs/x samples=o") == ["samples=one.npz"] and complete("forget=x classes=o") == []
