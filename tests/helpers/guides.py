"""The guides (README.md in every folder that has one), their code blocks, commands and links."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import gr_cli

ROOT = Path(gr_cli.__file__).parent.parent
GUIDES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        ROOT / "README.md",
        *(p for name in ("gr_cli", "conf", "scripts") for p in (ROOT / name).rglob("*.md")),
    ]
    if path.name == "README.md"
}
PROGRAMS = ("gr-run", "gr-report", "gr-audit")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced code blocks of a text in these languages, in their order."""
    return [
        code for language, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.M) if language in languages
    ]


def command_words(line: str) -> list[str]:
    """The words of a command line, without comment and without environment variables before it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def shown_commands(text: str) -> list[str]:
    """The lines of the shell blocks of a text; lines that end with a backslash are joined with the next."""
    lines = "".join(blocks(text, "sh", "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if command_words(line)]


def inline_commands(text: str) -> list[str]:
    """The commands that stand in running text and tables: `gr-run ...`, `python scripts/...`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)
    spans = [span.replace("\n", " ").replace("\\|", "|") for span in re.findall(r"`([^`]+)`", prose)]
    return [span for span in spans if re.match(r"(gr-run|gr-report|python scripts/|scripts/\w)", span) and " " in span]


def links(text: str) -> list[str]:
    """Targets of the links and pictures of a text, those in code excluded."""
    prose = re.sub(r"^```.*?^```|`[^`]*`", "code", text, flags=re.DOTALL | re.M)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'<(?:img|a)\b[^>]*?(?:src|href)="([^"]+)"', prose)


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a text, as web hosts make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
