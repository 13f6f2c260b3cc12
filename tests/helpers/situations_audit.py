"""Error messages of audits of canaries and of generated samples."""

from dataclasses import replace
from pathlib import Path

from gr_cli.audit import generated
from gr_cli.audit.canaries import canary_table
from gr_cli.nn.sample_spec import SampleSpec
from helpers.situations import Hands, Situation, Table


def trained(hands: Hands, *words: str) -> Path:
    """The folder of a finished tiny run with other settings."""
    assert hands.again(*words)[0] == 0
    (status,) = Path("outputs").glob("*/*/*/status.json")
    return status.parent


def canaries_without_scores(hands: Hands) -> object:
    folder = trained(hands, "canaries.count=5")
    for file in folder.glob("membership_scores_*.npz"):
        file.unlink()
    return canary_table(folder)


def replaying(hands: Hands) -> Path:
    return trained(hands, "strategy=generative_replay", "generator=vae", "evaluate.generated_samples=0")


def a_generator_before_its_first_task(hands: Hands) -> object:
    load_state = generated.load_state
    hands.monkeypatch.setattr(generated, "load_state", lambda *arguments: load_state(*arguments) | {"stage": 0})
    return generated.generator_of_run(replaying(hands))


def a_picture_in_the_run(hands: Hands) -> object:
    folder = replaying(hands)
    generated.draw_memorised(generated.generator_of_run(folder), folder, folder / "pairs.png")
    return None


def a_picture_of_long_vectors(hands: Hands) -> object:
    folder = replaying(hands)
    run = replace(generated.generator_of_run(folder), spec=SampleSpec((1000,), None))
    generated.draw_memorised(run, folder, Path("pairs.png"))
    return None


def a_release(hands: Hands) -> object:
    Path("released").mkdir()
    Path("released/manifest.json").write_text("{}", encoding="utf-8")
    return hands.gr_audit("released")


def audited(*words: str) -> Situation:
    """Call `gr-audit` on the folder of a finished tiny run."""
    return lambda hands: hands.gr_audit(hands.over(), *words)


AUDITS: Table = {
    "audit/cli.py": [
        ("is a picture of generated samples", audited("--canaries", "--memorised", "pairs.png")),
        ("is a picture of one run", audited("elsewhere", "--generated", "--memorised", "pairs.png")),
        ("must end in .png", audited("--generated", "--memorised", "pairs.txt")),
        ("are settings of shadow runs, and none", audited("--raw-samples", "--", "train.iterations=5")),
        ("must be above 0 and below 1", audited("--canaries", "--confidence", "2")),
        ("is a release", a_release),
    ],
    "audit/canaries.py": [
        ("has no canaries", lambda hands: canary_table(hands.over())),
        ("no task is finished", canaries_without_scores),
    ],
    "audit/generated.py": [
        ("has no generator", lambda hands: generated.generator_of_run(hands.over())),
        ("has finished no task yet", a_generator_before_its_first_task),
        ("contains training samples, which", a_picture_in_the_run),
        ("have no picture", a_picture_of_long_vectors),
    ],
}
