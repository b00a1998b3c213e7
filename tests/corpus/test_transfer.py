"""A transfer whose process is killed, or whose disk is full; what has come is kept."""

import random
import subprocess
import time

import pytest

from ladderlm.corpus import transfer
from ladderlm.corpus.fetch import download, part_file
from mirror import Answer, serve

DATA = b"\x28\xb5\x2f\xfd" + random.Random(7).randbytes(2_999_996)

CHILD = """
import resource, sys
from pathlib import Path
from ladderlm.corpus.fetch import download
url, path, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    download(url, Path(path), back_off_seconds=0.0)
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def mirror(monkeypatch):
    """A mirror that holds one file."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        running.files["/a.zst"] = DATA
        yield running


@pytest.fixture
def get(mirror, tmp_path):
    """Download the mirror's file without pauses."""
    url, path = mirror.url + "/a.zst", tmp_path / "got/a.zst"
    return lambda: download(url, path, back_off_seconds=0.0)


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def child(python, child_environment, mirror, tmp_path):
    """Start a process that downloads the mirror's file, perhaps with a limit of file sizes."""
    started = []

    def start(limit=0):
        line = [python, "-c", CHILD, mirror.url + "/a.zst", str(tmp_path / "got/a.zst"), str(limit)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(line, env=child_environment, stdout=pipe, stderr=pipe, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_killed_download_goes_on_from_its_part(child, get, mirror, tmp_path):
    """N07: kill -9 in the middle of a transfer."""
    mirror.script.append(Answer(cut=2_900_000, stall=True))
    process = child()
    end = time.monotonic() + 30
    part = part_file(mirror.url + "/a.zst", tmp_path / "got/a.zst")
    while transfer._size(part) < 1 << 20 and time.monotonic() < end:
        time.sleep(0.005)
    process.kill()
    process.wait(30)
    assert [name.endswith(".part") for name in files_in(tmp_path / "got")] == [True]
    assert get().path.read_bytes() == DATA
    assert mirror.starts[1] is not None
    assert mirror.starts[1] >= 1 << 20
    assert files_in(tmp_path / "got") == ["a.zst"]


def test_a_full_disk_stops_at_once_and_keeps_what_is_there(child, get, mirror, tmp_path):
    """N07: no retries, since the server is not at fault."""
    out, errors = child(limit=1_500_000).communicate(timeout=30)
    assert out.startswith("LadderError cannot write"), errors
    assert "free some space" in out
    assert len(mirror.asked) == 1
    assert get().path.read_bytes() == DATA
    assert mirror.starts[1] >= 1 << 20
