"""Messages about releases, and about the claims that they need."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from gr_cli import load_release
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.privacy import PrivacySettings
from gr_cli.privacy.ledger import FILE_NAME
from gr_cli.runner.released_networks import check_buffers
from helpers.interruption import only_run
from helpers.private_parts import NoisyMeans
from helpers.situations import Hands, Situation, Table

PARTS = "helpers.private_parts"
TRUST = f"trust={PARTS}"
MEANS = (f"generator._target_={PARTS}.NoisyMeans", "privacy.epsilon=2", "threads=1", "log.every=2", "seed=7")
CLASSIFIER = ("strategy=generative_classifier", *MEANS)
FROM_GENERATED = ("strategy.current_data=generated", "strategy.generator_training=before")
SMALL = ("train.iterations=4", "benchmark.classes_per_task=5", "model.hidden_sizes=[8]")
REPLAY = ("strategy=generative_replay", *MEANS, *FROM_GENERATED, *SMALL)


def edit_ledger(folder: Path, edit: Callable[[list[str]], list[str]]) -> None:
    """Replace the lines of a run's ledger."""
    path = folder / FILE_NAME
    path.write_text("".join(edit(path.read_text(encoding="utf-8").splitlines(True))), encoding="utf-8")


def remove_ledger(folder: Path) -> None:
    (folder / FILE_NAME).unlink()


def spend_more(folder: Path) -> None:
    """Add an access that can't be composed with the others at the same ε."""
    edit_ledger(folder, lambda lines: [*lines, lines[-1].replace('"gaussian"', '"subsampled_gaussian"')])


class Frugal(NoisyMeans):
    """A generator with twice the noise that its budget needs."""

    def __init__(self, spec: SampleSpec, num_classes: int, privacy: PrivacySettings | None = None) -> None:
        super().__init__(spec, num_classes, privacy)
        self.multiplier *= 2


def an_access_of_which_the_table_does_not_know(hands: Hands) -> object:
    target = "generator._target_=helpers.situations_release.Frugal"
    folder = private_run(hands, "strategy=generative_classifier", target, *MEANS[1:])
    edit_ledger(folder, lambda lines: [*lines, lines[-1]])
    return hands.gr_run(f"release={folder}", "trust=helpers")


def change_table(folder: Path) -> None:
    (folder / "privacy.csv").write_text("epsilon\n0\n", encoding="utf-8")


def private_run(hands: Hands, *words: str) -> Path:
    """The folder of a finished run with a budget."""
    assert hands.gr_run(*(words or CLASSIFIER))[0] == 0
    return only_run()


def after(change: Callable[[Path], None]) -> Situation:
    """Release a run after a change of its folder."""

    def do(hands: Hands) -> object:
        folder = private_run(hands)
        change(folder)
        return hands.gr_run(f"release={folder}", TRUST)

    return do


def an_unfinished_run(hands: Hands) -> object:
    folder = private_run(hands)
    status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    (folder / "status.json").write_text(json.dumps(status | {"state": "interrupted"}), encoding="utf-8")
    return hands.gr_run(f"release={folder}", TRUST)


def twice(hands: Hands) -> object:
    folder = private_run(hands)
    assert hands.gr_run(f"release={folder}", TRUST, "to=released")[0] == 0
    return hands.gr_run(f"release={folder}", TRUST, "to=released")


def released(hands: Hands, *words: str) -> Path:
    """The folder of a release."""
    folder = private_run(hands, *words)
    assert hands.gr_run(f"release={folder}", TRUST, "to=released")[0] == 0
    return Path("released")


def loading_after(change: Callable[[Path], object]) -> Situation:
    """Load a release after a change of its folder."""

    def do(hands: Hands) -> object:
        folder = released(hands)
        change(folder)
        return load_release(folder, PARTS)

    return do


def a_release_without_solver(hands: Hands) -> object:
    folder = released(hands, *REPLAY)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["files"]["solver.pt"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return load_release(folder, PARTS).scores(torch.zeros(1, 1, 8, 8))


def other_weights(folder: Path) -> None:
    """Replace a file of weights by another one, and its hash in the manifest."""
    from gr_cli.results.release_manifest import sha256

    (folder / "generator.pt").write_bytes(b"nothing")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["generator.pt"]["sha256"] = sha256(b"nothing")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def statistics_of_batches(hands: Hands) -> object:
    trained = nn.BatchNorm1d(2)
    trained(torch.rand(4, 2))
    check_buffers("solver", trained, nn.BatchNorm1d(2))
    return None


RELEASES: Table = {
    "runner/claim.py": [
        ("claims no privacy", lambda hands: hands.gr_run(f"release={hands.over()}")),
        ("only a finished run is released", an_unfinished_run),
        ("is missing, so that it is unknown", after(remove_ledger)),
        ("more than the budget", after(spend_more)),
        ("was damaged or changed", after(change_table)),
        ("differ in what was spent", an_access_of_which_the_table_does_not_know),
    ],
    "runner/release.py": [("overwrites nothing", twice)],
    "runner/released_networks.py": [("was computed from samples without noise", statistics_of_batches)],
    "runner/released.py": [
        ("was not written by gr-run release=", loading_after(other_weights)),
        ("holds no solver", a_release_without_solver),
    ],
    "results/release_manifest.py": [
        ("is not the manifest of a release", lambda hands: load_release(hands.over())),
        ("can't be read", loading_after(lambda folder: (folder / "privacy.csv").unlink())),
        ("damaged or changed", loading_after(lambda folder: (folder / "privacy.csv").write_bytes(b"epsilon\n"))),
    ],
}
