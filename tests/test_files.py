"""Publishing, logs, locks and checksums, under kills and full disks."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladderlm.errors import CheckpointError, DataError, LadderError
from ladderlm.files import (
    AppendLog,
    FolderLock,
    check_free_space,
    copy_folder,
    make_folder,
    move_into_place,
    open_log,
    publish,
    publish_json,
    publish_stream,
    publish_text,
    read_json,
    remove_tree,
    sha256_file,
    to_json,
)

SECONDS = 60  # no child of these tests should need more than a few


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def run_child(code, *arguments, environment, check=True):
    """Run Python code in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def calls(monkeypatch):
    """Record fsync, rename and unlink, with what the file under the final name held then."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        size = None if path.is_dir() else os.fstat(descriptor).st_size
        seen.append(("fsync", path, size))
        fsync(descriptor)

    def recorded_replace(source, target):
        seen.append(("rename", Path(source), Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files need /proc")
def test_a_file_is_synced_whole_then_renamed_then_its_folder_is_synced(tmp_path, calls):
    """C03: write, flush, fsync, rename, fsync folder, and nothing else."""
    target = tmp_path / "x.bin"
    publish(target, lambda stream: stream.write(b"12345"))
    (first, temporary, size), (second, source, to), (third, folder, _) = calls
    assert (first, second, third) == ("fsync", "rename", "fsync")
    assert size == 5  # buffered bytes were flushed before the sync
    assert temporary == source
    assert source.parent == target.parent == folder  # a rename in one folder is atomic
    assert to == target


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files need /proc")
def test_new_folders_are_synced_into_their_parents(tmp_path, calls):
    """C03: no folder is left un-synced."""
    publish_text(tmp_path / "a/b/x.txt", "1")
    synced = [path for kind, path, _ in calls if kind == "fsync"]
    assert synced.index(tmp_path) < synced.index(tmp_path / "a") < synced.index(tmp_path / "a/b")
    calls.clear()
    move_into_place(tmp_path / "a/b/x.txt", tmp_path / "x.txt")
    assert {path for kind, path, _ in calls if kind == "fsync"} == {tmp_path, tmp_path / "a/b"}


def test_readers_see_old_content_until_the_block_ends(tmp_path):
    target = tmp_path / "x"
    publish_text(target, "old")
    with publish_stream(target) as stream:
        stream.write(b"new")
        stream.flush()
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names_in(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_a_failure_keeps_old_content_and_leaves_no_temporary_file(tmp_path, error):
    target = tmp_path / "x"
    publish_text(target, "old")

    def failing_write(stream) -> None:
        stream.write(b"half")
        raise error

    with pytest.raises(type(error)):
        publish(target, failing_write)
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["x"]


@pytest.mark.parametrize("moment", ["written", "synced", "renamed"])
def test_a_process_that_dies_leaves_the_old_file_or_the_new_one(
    tmp_path, child_environment, moment
):
    """C02: death before the rename keeps the old content, after it the new."""
    target = tmp_path / "x"
    publish_text(target, "old")
    code = """
import os, sys
from ladderlm import files
moment, fsync, replace = sys.argv[2], os.fsync, os.replace
def dying_fsync(descriptor):
    fsync(descriptor)
    os._exit(9)
def dying_replace(source, target):
    replace(source, target)
    os._exit(9)
if moment == "synced":
    os.fsync = dying_fsync
if moment == "renamed":
    os.replace = dying_replace
with files.publish_stream(sys.argv[1]) as stream:
    stream.write(b"new" * 10000)
    if moment == "written":
        stream.flush()
        os._exit(9)
"""
    done = run_child(code, target, moment, environment=child_environment, check=False)
    assert done.returncode == 9, done.stderr
    expected = "new" * 10000 if moment == "renamed" else "old"
    assert target.read_text() == expected
    publish_text(target, "newer")  # what the dead one left is in nobody's way
    assert target.read_text() == "newer"


def test_a_file_that_outgrows_its_limit_gives_a_clear_error(tmp_path, child_environment):
    """C08: no room (RLIMIT_FSIZE): old content kept, no temporary file, and a way out."""
    target = tmp_path / "x"
    publish_text(target, "old")
    code = """
import resource, signal, sys
from ladderlm.errors import LadderError
from ladderlm.files import publish_stream
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with publish_stream(sys.argv[1]) as stream:
        for _ in range(100):
            stream.write(b"x" * 1000)
except LadderError as error:
    print(error)
"""
    done = run_child(code, target, environment=child_environment)
    assert f"no room to write {target}" in done.stdout
    assert "fix: free some disk space" in done.stdout
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["x"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_at_the_sync_gives_a_clear_error(tmp_path, monkeypatch, number):
    """C08: a disk may only notice at fsync that it is full."""
    target = tmp_path / "x"
    publish_text(target, "old")

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LadderError, match="no room to write"):
        publish_text(target, "new")
    assert target.read_text() == "old"
    assert names_in(tmp_path) == ["x"]


def test_other_failures_of_the_system_pass_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        publish_text(tmp_path / "x", "new")
    assert names_in(tmp_path) == []


def test_hostile_names_are_written_where_they_say(tmp_path):
    """C22: spaces, newlines, emoji and the longest name a file system takes."""
    for name in ("a b", "a\nb", "🪜.json", "x" * 255, "é" * 127):
        publish_text(tmp_path / name, name)
        assert (tmp_path / name).read_text(encoding="utf-8") == name
    assert len(names_in(tmp_path)) == 5


def test_undecodable_names_can_be_recorded(tmp_path):
    publish_text(tmp_path / "x", "\udcff")
    assert (tmp_path / "x").read_bytes() == b"\\udcff"


def test_a_disk_too_small_is_refused_before_writing(tmp_path):
    check_free_space(tmp_path / "not/yet/there", 1)
    with pytest.raises(LadderError, match=r"needs .* MB, but .* MB are free"):
        check_free_space(tmp_path / "not/yet/there", 1 << 62)
    assert names_in(tmp_path) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def without_non_finite(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_non_finite(item) for key, item in value.items()}
    return [without_non_finite(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_any_value_becomes_strict_json_with_null_for_what_is_not_finite(value):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    for indent in (None, 2):
        text = to_json(value, indent=indent)
        assert json.loads(text, parse_constant=refuse) == without_non_finite(value)
    assert "\n" not in to_json(value, indent=None)


def test_published_json_reads_back(tmp_path):
    value = {"a": [1, 2.5, None], "é": math.nan}
    publish_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None], "é": None}
    assert (tmp_path / "x.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": 1,\n "b": }\n', ":2:7: "),
        (b"", ":1:1: "),
        (b'{"a": 1', ":1:8: "),
        (b'{"a": "\xff"}', ""),
        (b"[" * 100_000, ""),
        (b"1" * 5000, ""),
    ],
    ids=["syntax", "empty", "cut", "not UTF-8", "nested 100k deep", "number of 5000 digits"],
)
def test_a_damaged_json_file_is_named_with_line_and_column(tmp_path, content, place):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert f"{path}{place}" in caught.value.what
    assert caught.value.fix


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "x") == digest


def test_removing_a_folder_never_follows_a_link(tmp_path):
    """C11: links inside, and a link in the folder's own place, are unlinked only."""
    outside = tmp_path / "outside"
    make_folder(outside)
    publish_text(outside / "kept", "1")
    folder = tmp_path / "folder"
    publish_text(folder / "sub/deep/x", "1")
    publish_text(folder / "manifest.json", "{}")
    (folder / "link").symlink_to(outside)
    (folder / "sub/loop").symlink_to(folder)
    (folder / "dangling").symlink_to(tmp_path / "nowhere")
    remove_tree(folder)
    assert not folder.exists()
    (tmp_path / "alias").symlink_to(outside)
    remove_tree(tmp_path / "alias")
    remove_tree(tmp_path / "never was")
    assert names_in(tmp_path) == ["kept", "outside"]


def test_the_manifest_is_the_first_to_go(tmp_path, monkeypatch):
    """C13: a removal that is cut short leaves nothing that a reader would trust."""
    publish_text(tmp_path / "folder/a.bin", "1")
    publish_text(tmp_path / "folder/manifest.json", "{}")
    unlink = Path.unlink
    gone = []

    def recorded(path, missing_ok=False):
        gone.append(path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", recorded)
    remove_tree(tmp_path / "folder")
    assert gone == ["manifest.json", "a.bin"]


def test_a_log_is_appended_to_what_is_there(tmp_path):
    (tmp_path / "log").write_bytes(b"a\nb\n")
    with open_log(tmp_path / "log") as stream:
        stream.write(b"c\n")
    assert (tmp_path / "log").read_bytes() == b"a\nb\nc\n"


ROWS = [{"step": step, "loss": step / 2} for step in range(6)]


def written_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_is_readable_row_by_row_and_survives_reopening(tmp_path):
    path = tmp_path / "log.jsonl"
    log = AppendLog(path)
    for i, row in enumerate(ROWS[:3]):
        log.write(row)
        assert written_rows(path) == ROWS[: i + 1]
    log.close()
    log.close()
    before = path.read_bytes(), path.stat().st_ino
    log = AppendLog(path)
    assert (path.read_bytes(), path.stat().st_ino) == before  # nothing to mend, nothing rewritten
    log.write(ROWS[3])
    log.close()
    assert written_rows(path) == ROWS[:4]


def test_a_torn_log_is_cut_at_every_byte_and_keeps_its_whole_lines(tmp_path):
    """C19: wherever a kill tears the last write, each step stands once, in order."""
    whole = "".join(to_json(row, indent=None) + "\n" for row in ROWS[:3]).encode()
    path = tmp_path / "log.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        only_the_newline_is_missing = whole[cut : cut + 1] == b"\n"
        n_whole = whole[:cut].count(b"\n") + only_the_newline_is_missing
        log = AppendLog(path)
        assert written_rows(path) == ROWS[:n_whole]
        for row in ROWS[n_whole:]:
            log.write(row)
        log.close()
        assert written_rows(path) == ROWS


def test_rows_past_the_checkpoint_are_dropped_before_they_are_done_again(tmp_path):
    """C19: redone rows are not doubled."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(to_json(row, indent=None) + "\n" for row in ROWS) + '{"step": 6, "lo')
    log = AppendLog(path, keep=lambda row: row["step"] <= 2)
    for row in ROWS[3:]:
        log.write(row)
    log.close()
    assert written_rows(path) == ROWS


def test_lines_that_are_no_objects_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    deep = "[" * 100_000
    path.write_text(f'{{"step": 0, "loss": 0.0}}\n17\nnull\n\x00\x00\n\n{deep}\n')
    AppendLog(path).close()
    assert written_rows(path) == ROWS[:1]


def test_a_log_holds_strict_json(tmp_path):
    log = AppendLog(tmp_path / "log.jsonl")
    log.write({"loss": math.nan, "text": "a\nb\udcff"})
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] is None


def test_a_log_that_finds_no_room_says_so(tmp_path, child_environment):
    """C08: what stood in the log before stays whole."""
    path = tmp_path / "log.jsonl"
    code = """
import resource, signal, sys
from pathlib import Path
from ladderlm.errors import LadderError
from ladderlm.files import AppendLog
log = AppendLog(Path(sys.argv[1]))
log.write({"step": 0, "loss": 0.0})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    log.write({"step": 1, "text": "x" * 1000})
except LadderError as error:
    print(error)
"""
    done = run_child(code, path, environment=child_environment)
    assert f"cannot append to {path}" in done.stdout
    assert "fix: free some disk space" in done.stdout
    AppendLog(path).close()
    assert written_rows(path) == ROWS[:1]


HOLDER = """
import os, sys
from pathlib import Path
from ladderlm.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", os.getpid(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path, child_environment):
    """A process that holds `tmp_path/run`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        env=child_environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout.readline() == f"held {child.pid}\n"
            yield child
        finally:
            child.kill()


@pytest.mark.timeout(60)
def test_a_held_folder_is_refused_by_name_until_its_holder_is_killed(tmp_path, holder):
    """C20: the second is refused naming pid and host; a dead holder's lock is free at once."""
    with pytest.raises(CheckpointError) as caught:
        FolderLock(tmp_path / "run")
    assert f"pid {holder.pid} on {os.uname().nodename} since " in caught.value.what
    assert str(tmp_path / "run") in caught.value.what
    with pytest.raises(CheckpointError, match=str(holder.pid)):  # the refusal spoiled nothing
        FolderLock(tmp_path / "run")
    holder.send_signal(signal.SIGKILL)
    holder.wait(SECONDS)
    with FolderLock(tmp_path / "run"):
        assert f"pid {os.getpid()} " in (tmp_path / "run/.lock").read_text()


def test_a_lock_is_freed_by_release_and_by_errors(tmp_path):
    with pytest.raises(ValueError, match="boom"), FolderLock(tmp_path):
        raise ValueError("boom")
    lock = FolderLock(tmp_path)
    with pytest.raises(CheckpointError):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    FolderLock(tmp_path).release()


def test_a_lock_can_be_waited_for(tmp_path):
    """S01: what a killed study has left saving is waited for, not taken for a second writer."""
    held = FolderLock(tmp_path / "run")
    begun, got = threading.Event(), []

    def wait():
        begun.set()
        with FolderLock(tmp_path / "run", wait=True):
            got.append(time.monotonic())

    waiter = threading.Thread(target=wait)
    waiter.start()
    begun.wait(10)
    time.sleep(0.1)
    assert not got
    freed = time.monotonic()
    held.release()
    waiter.join(10)
    assert got[0] >= freed


def test_a_copied_folder_is_whole_and_follows_no_link(tmp_path):
    """D20: links, locks and temporary files stay behind; a copy cut short is made again."""
    source, target = tmp_path / "source", tmp_path / "deep/target"
    (source / "checkpoints/step-1").mkdir(parents=True)
    (source / "checkpoints/step-1/model").write_bytes(b"\0\1" * 1000)
    (source / "empty").mkdir()
    (source / "a.json").write_text("{}")
    (source / ".lock").write_text("pid")
    (source / ".tmp-1-b").write_text("half")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("s")
    (source / "link").symlink_to(tmp_path / "secret")
    (source / "file-link").symlink_to(tmp_path / "secret/key")
    half = target.parent / ".tmp-target"
    half.mkdir(parents=True)
    (half / "old").write_text("of a copy that was killed")
    copy_folder(source, target)
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert found == [
        "a.json",
        "checkpoints",
        "checkpoints/step-1",
        "checkpoints/step-1/model",
        "empty",
    ]
    assert (target / "checkpoints/step-1/model").read_bytes() == b"\0\1" * 1000
    assert not half.exists()
