"""Pages of gr-report in tests: what is embedded in them, and what a browser makes of them."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


def embedded(text: str, name: str = "data") -> Any:
    """The JSON of a script element of a page."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)[1])


def without_library(text: str) -> str:
    """A page without the scripts of Vega-Lite."""
    return re.sub(r'<script id="library">.*?</script>', "", text, flags=re.DOTALL)


def with_script(text: str, script: str) -> str:
    """A page with another script at its end, which its policy allows."""
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src &#39;sha256-{allowed}&#39; ", 1)
    before, after = text.rsplit("</body>", 1)
    return f"{before}<script>{script}</script></body>{after}"


def browsed(path: Path, *flags: str) -> tuple[str, str]:
    """The page after its scripts have run, and the log of the browser."""
    if not CHROMIUM:
        pytest.skip("there is no chromium to look at the page with")
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom", *flags]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *words, profile, path.as_uri()], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return done.stdout, done.stderr
