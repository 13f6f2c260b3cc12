"""Runs with noise of the operating system's generator: nothing in the folder gives it away, and no run repeats it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.privacy import gaussian_noise
from gr_cli.results.folder import RunFolder
from helpers.interruption import only_run
from helpers.situations_release import CLASSIFIER, PARTS, REPLAY, TRUST, change_table, remove_ledger
from helpers.small_runs import tensors

SECURE = "privacy.secure=true"
# Bytes of the state of torch's generator on a CPU, the least of all devices and libraries.
STATE_BYTES = 5056


@pytest.fixture
def drawn(monkeypatch):
    """The noise that is drawn."""
    draws = []

    def recorded(*arguments):
        draws.append(gaussian_noise(*arguments))
        return draws[-1]

    monkeypatch.setattr(f"{PARTS}.gaussian_noise", recorded)
    return draws


def contains_noise(folder: Path, draws: list[torch.Tensor]) -> bool:
    """Whether a value of the noise is in a checkpoint, in either precision, or in another file as bytes or text."""
    noise = torch.cat([draw.flatten() for draw in draws])
    assert len(noise) and noise.unique().numel() == noise.numel()
    checkpoints = [RunFolder(folder).load_checkpoint()]
    values = torch.cat([tensor.flatten().double() for state in checkpoints for tensor in tensors(state)])
    stored = torch.isin(noise, values) | torch.isin(noise.float().double(), values)
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    some = noise[:50].tolist()
    patterns = [kind(number).tobytes() for number in some for kind in (np.float64, np.float32)]
    patterns += [repr(number)[:12].encode() for number in some]
    return bool(stored.any()) or any(pattern in content for pattern in patterns for content in contents)


def test_no_noise_and_no_state_of_a_generator_is_in_the_folder(gr_run, drawn):
    assert gr_run(*CLASSIFIER, SECURE)[0] == 0
    assert len(drawn) == 10
    assert not contains_noise(only_run(), drawn)
    saved = RunFolder(only_run()).load_checkpoint()
    assert not [t for t in tensors(saved) if t.dtype == torch.uint8 and t.numel() >= STATE_BYTES]
    # The search finds what is there.
    (only_run() / "noise.npy").write_bytes(drawn[0].numpy().tobytes())
    assert contains_noise(only_run(), drawn)


def test_no_noise_is_in_the_checkpoint_of_a_stopped_run(interrupted, drawn):
    interrupted(*REPLAY, SECURE, at=(1, 2))
    assert len(drawn) == 10 and not contains_noise(only_run(), drawn)


def test_a_secure_run_can_not_be_verified_and_what_can_be_is(gr_run, made):
    folder = made(*CLASSIFIER, SECURE)
    code, out, err = gr_run(f"verify={folder}", TRUST)
    lines = out.splitlines()
    assert (code, err) == (3, "")
    assert lines[-1] == (
        "consistent, but not repeatable: noise was drawn from the operating system's generator (privacy.secure=true)"
    )
    assert "privacy_ledger.jsonl: 10 accesses, ε = 2 at δ = 1e-05, within the budget and as in privacy.csv" in lines
    assert "accuracy_matrix.csv: as in the checkpoint" in lines and "privacy.csv: as in the checkpoint" in lines


@pytest.mark.parametrize(
    ("change", "reason"), [(remove_ledger, "is missing"), (change_table, "differs from the check")]
)
def test_a_secure_run_whose_files_do_not_fit_is_inconsistent(gr_run, made, change, reason):
    folder = made(*CLASSIFIER, SECURE)
    change(folder)
    code, out, _ = gr_run(f"verify={folder}", TRUST)
    assert code == 1 and reason in out and "NOT consistent, and not repeatable" in out


def test_a_seeded_run_is_verified_by_repeating_it(gr_run, made):
    code, out, _ = gr_run(f"verify={made(*CLASSIFIER)}", TRUST)
    assert code == 0 and "verified: all tables are the same" in out


def test_status_and_summary_say_what_is_not_covered(gr_run, folder):
    privacy = json.loads((folder / "status.json").read_text(encoding="utf-8"))["privacy"]
    assert "not_covered" not in privacy
    code, out, _ = gr_run(*CLASSIFIER, "output_root=other")
    (status,) = Path("other").glob("*/*/*/status.json")
    privacy = json.loads(status.read_text(encoding="utf-8"))["privacy"]
    assert privacy["not_covered"]["history.csv"] == "losses on training samples"
    assert code == 0 and "not covered by the run's ε: history.csv, accuracy" in " ".join(out.split())


def test_the_epsilon_of_a_sweep_is_added_up(gr_run):
    code, out, _ = gr_run("-m", *CLASSIFIER[:-1], "seed=0,1")
    assert code == 0
    assert "privacy: 2 runs on the samples of split_digits may spend ε = 4 at δ = 2e-05 in all" in out
