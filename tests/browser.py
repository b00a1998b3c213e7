"""A page as a real browser sees it: headless, offline."""

import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["open_offline"]

_NAMES = ("chromium", "google-chrome", "chromium-browser", "chrome")


def open_offline(page: Path, profile: Path) -> str:
    """Open a page with the network off; return its DOM. A line on the console is a failure.

    Args:
        profile: a folder for the browser's own files.
    """
    browser = next(filter(None, map(shutil.which, _NAMES)), None)
    if browser is None:
        pytest.skip("[chromium] no browser is installed")
    done = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--proxy-server=127.0.0.1:9",
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            "--v=0",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout
