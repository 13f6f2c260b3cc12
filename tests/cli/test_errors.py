"""Every error message is raised by a situation that is listed with it."""

import re
from contextlib import chdir
from itertools import groupby
from pathlib import Path

import pytest

from gr_cli.cli.main import main
from gr_cli.errors import GrError
from helpers.extras import needs_optuna
from helpers.messages import Message, messages
from helpers.situations import TINY, Entry, Hands
from helpers.situations_api import API
from helpers.situations_audit import AUDITS
from helpers.situations_commands import COMMANDS
from helpers.situations_data import DATA
from helpers.situations_dp_sgd import DP_SGD
from helpers.situations_features import FEATURES
from helpers.situations_forgetting import FORGETTING
from helpers.situations_privacy import PRIVACY
from helpers.situations_python import PYTHON
from helpers.situations_release import RELEASES
from helpers.situations_report import REPORT
from helpers.situations_runs import RUNS
from helpers.situations_search import SEARCHES
from helpers.situations_tables import TABLES

ENTRIES = [
    (file, entry)
    for table in (
        API,
        AUDITS,
        COMMANDS,
        DATA,
        DP_SGD,
        FEATURES,
        FORGETTING,
        PRIVACY,
        PYTHON,
        RELEASES,
        RUNS,
        REPORT,
        SEARCHES,
        TABLES,
    )
    for file, entries in table.items()
    for entry in entries
]
MESSAGES = {file: list(group) for file, group in groupby(messages(), lambda message: message.file)}
# Exit codes by class of error; `error_type` is an argument of `out_of_memory_as`.
EXIT_CODES = {error.__name__: {error.exit_code} for error in GrError.__subclasses__()} | {"error_type": {1, 2}}


def message_of(file: str, entry: Entry) -> list[Message]:
    """The messages that contain the text of an entry; there should be one."""
    there = MESSAGES.get(file, [])
    return [m for m in there if m.text == entry[0]] or [m for m in there if entry[0] in m.text]


def pattern(entry: Entry) -> str:
    """The regular expression of the message that an entry expects."""
    return re.escape(entry[2] if len(entry) > 2 else entry[0]).replace(r"\{\}", ".*")


def test_every_message_has_a_situation_and_every_situation_a_message():
    listed = [(file, entry, message_of(file, entry)) for file, entry in ENTRIES]
    covered = {message for _, _, matching in listed for message in matching if len(matching) == 1}
    missing = [str(message) for group in MESSAGES.values() for message in group if message not in covered]
    stale = [
        f"{file}: {entry[0]!r} is in {len(matching)} messages" for file, entry, matching in listed if len(matching) != 1
    ]
    assert not missing and not stale, "\n".join(["", *missing, *stale])


# --- each situation


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished tiny run."""
    home = tmp_path_factory.mktemp("finished")
    with chdir(home):
        assert main(TINY) == 0
    return home


@pytest.fixture
def hands(gr_run, gr_audit, monkeypatch, finished) -> Hands:
    return Hands(gr_run, gr_audit, monkeypatch, finished)


def outcome(situation, hands: Hands) -> tuple[int | None, str]:
    """The exit code of a command, None for an exception in Python; and the message."""
    try:
        answer = situation(hands)
    except GrError as error:
        return None, str(error)
    assert isinstance(answer, tuple), "nothing went wrong"
    return answer[0], answer[2]


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        pytest.param(
            file, entry, id=f"{file}: {entry[0]}", marks=[needs_optuna] if entry in SEARCHES.get(file, []) else []
        )
        for file, entry in ENTRIES
    ],
)
def test_a_situation_raises_its_message(hands, file, entry):
    (message,) = message_of(file, entry)
    code, output = outcome(entry[1], hands)
    assert re.search(pattern(entry), output), output
    assert re.search(message.pattern, " ".join(output.split())), f"{output}\nis not {message}"
    assert "Traceback" not in output
    assert code in (None, *EXIT_CODES.get(message.kind, {2}))


def test_invalid_input_has_exit_code_2_and_a_failed_run_1():
    codes = {error.__name__: error.exit_code for error in GrError.__subclasses__()}
    mistakes = {"ConfigError", "DataError", "SizeError", "FolderError", "CompositionError"}
    failures = {"WriteError", "TrainingError", "OutOfMemoryError", "AuditError"}
    assert codes == dict.fromkeys(mistakes, 2) | dict.fromkeys(failures, 1) | {
        "IncompleteAuditError": 3,
        "Interrupted": 130,
        "Pruned": 0,
    }


def test_a_refusal_names_options_and_not_the_classes_that_they_configure(capsys, tmp_path):
    assert main([f"hydra.run.dir={tmp_path}/run", "generator=mixture", "scenario=domain"]) == 2
    err = capsys.readouterr().err
    assert "generator=mixture: is fitted once per class" in err and "GaussianMixture" not in err
