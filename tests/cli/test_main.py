"""The command itself: help, exit codes, messages, closed pipes and poor environments."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from ladderlm.cli import main as command
from ladderlm.cli.main import COMMANDS, GROUPS
from ladderlm.errors import Stopped

SECONDS = 60


@pytest.fixture
def lines(python, child_environment):
    """Run a shell line in which `ladderlm` is this checkout's command."""

    def give(line, **environment):
        own = f"{python} -m ladderlm.cli.main"
        return subprocess.run(
            ["bash", "-c", f'ladderlm() {{ {own} "$@"; }}; {line}'],
            env={**child_environment, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return give


def test_the_help_names_every_command_and_without_one_it_is_wrong_use(ladderlm):
    said = ladderlm("--help")
    assert said.code == 0
    lines = said.out.splitlines()
    for group, commands in GROUPS.items():
        at = lines.index(group)
        assert [line.split()[0] for line in lines[at + 1 : at + 1 + len(commands)]] == [*commands]
        for line, (_, _, verbs) in zip(lines[at + 1 :], commands.values(), strict=False):
            assert set(verbs) <= set(re.findall(r"\w+", line))
            assert len(line) < 100
    assert ladderlm("-h") == ladderlm("help") == said
    assert ladderlm().code == 2
    assert ladderlm("--version").out.startswith("ladderlm 0.")


@pytest.mark.parametrize(
    "words",
    [
        *([name] for name in COMMANDS),
        *(
            [name, verb]
            for group in GROUPS.values()
            for name, (_, _, verbs) in group.items()
            for verb in verbs
        ),
    ],
)
def test_every_command_explains_itself_in_words_not_in_types(words, ladderlm):
    said = ladderlm(*words, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"ladderlm {' '.join(words)}" in said.out
    for slip in ("type:", "noqa", "Annotated", "dataclass", "TODO", "<class", "{None", "STR"):
        assert slip not in said.out
    positional = said.out.partition("positional arguments")[2].partition("options")[0]
    if words[0] not in ("study", "quickstart"):
        assert not re.search(r"│ \W*STR\b", positional)  # it says RUN, DIR, SOURCE


def test_help_loads_no_torch_and_is_quick(lines):
    done = lines(f"exec {sys.executable} -X importtime -m ladderlm.cli.main --help")
    assert done.returncode == 0
    assert not re.search(r"\| +(torch|numpy|tyro|matplotlib)\b", done.stderr)
    taken = []
    for _ in range(3):
        before = os.times().children_user
        lines("ladderlm --help")
        taken.append(os.times().children_user - before)
    assert min(taken) < 0.3  # 0.06 s of CPU; a busy machine lengthens only the wall clock


@pytest.mark.parametrize(
    ("word", "near"), [("trian", "train"), ("evaluate", "eval"), ("tokenise", "tokenizer")]
)
def test_an_unknown_command_is_refused_with_the_nearest(word, near, ladderlm):
    said = ladderlm(word)
    assert said.code == 2
    assert f"unknown command '{word}'" in said.err
    assert f"did you mean {near}?" in said.err
    assert said.out == ""


def test_a_word_that_is_like_no_command_points_to_the_list(ladderlm):
    assert "`ladderlm --help` lists them" in ladderlm("xyzzy").err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Stopped(signal.SIGTERM), 143, "The same command resumes it"),
        (Stopped(signal.SIGINT), 130, "saved"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(13, "Permission denied", "/x"), 1, "'/x'"),
        (ZeroDivisionError("by 0"), 1, "this is a bug: run it again with --debug"),
    ],
)
def test_each_way_to_end_has_its_code_and_words(error, code, says, ladderlm, monkeypatch):
    def fail(_words):
        raise error

    monkeypatch.setattr(command, "_dispatch", fail)
    said = ladderlm("train")
    assert said.code == code
    assert says in said.err


def test_debug_shows_the_traceback_wherever_it_stands(lines, tmp_path):
    for line in (f"ladderlm --debug verify {tmp_path}", f"ladderlm verify {tmp_path} --debug"):
        done = lines(line)
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert "neither prepared data nor a run" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "inspect {data} --rows 64 --seq-len 16",
        "inspect {data} --rows 2",
        "tokenizer show {data}/tokenizer --text aaaa",
        "--help",
        "prepare --help",
    ],
)
def test_a_reader_that_leaves_early_causes_no_noise(words, lines, tiny_data):
    """X01: `ladderlm ... | head -1`."""
    line = f"ladderlm {words.format(data=tiny_data)} | head -1"
    done = lines(line)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.parametrize("to", [">/dev/full", "> >(exit 0)"])
def test_an_output_that_takes_nothing_ends_with_code_one_at_most(to, lines, tiny_data):
    """X01: a full disk behind standard output, a reader that is gone before it began."""
    done = lines(f"ladderlm tokenizer show {tiny_data}/tokenizer {to}")
    assert done.returncode in (0, 1)  # the second kind may be read before it is gone
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


MANY = """
import contextlib, io, json, sys
from ladderlm.cli.main import main
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            code = main(words)
    except SystemExit as stop:
        code = stop.code
    print(json.dumps([words[0], code, len(out.getvalue())]))
"""


@pytest.mark.long
def test_every_command_works_in_the_poorest_environment(
    python, shared_run, tiny_data, corpus, config_file, run, tmp_path
):
    """X01: no HOME, no terminal, LANG=C, TERM=dumb, standard input closed, umask 000."""
    tokenizer = tiny_data / "tokenizer"
    told = [
        ["doctor", "--json"],
        ["tokenizer", "show", str(tokenizer), "--text", "é"],
        ["prepare", str(corpus), "--tokenizer", str(tokenizer), "--out", "data"],
        ["inspect", "data"],
        ["train", "--config", str(config_file), "--data", "data", "--out", "new"],
        ["eval", str(run)],
        ["generate", str(run), "--prompt", "é", "--echo", "--max-new-tokens", "4"],
        ["verify", "new"],
        ["report", str(run), "--out", "report"],
    ]
    place = tmp_path / "a place with spaces, é and 日本"
    place.mkdir()
    done = subprocess.run(
        [python, "-c", MANY, json.dumps(told)],
        env={"LANG": "C", "LC_ALL": "C", "TERM": "dumb", "OMP_NUM_THREADS": "1"},
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=SECONDS,
        preexec_fn=lambda: os.umask(0),
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(name, code) for name, code, _ in found] == [(words[0], 0) for words in told]
    assert all(n_written > 0 for _, _, n_written in found)


def test_ctrl_c_while_waiting_ends_with_130_and_one_line(python, child_environment, shared_run):
    line = [python, "-m", "ladderlm.cli.main", "generate", str(shared_run), "--prompt", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line,
        env=child_environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        time.sleep(1.0)  # it waits for a prompt that does not come
        end = time.monotonic() + SECONDS
        while child.poll() is None and time.monotonic() < end:
            child.send_signal(signal.SIGINT)
            time.sleep(2.0)  # a second one in the midst of its end is another matter
        out, err = child.communicate(timeout=SECONDS)
    assert child.returncode == 130
    assert (out, err) == ("", "interrupted\n")


def test_a_terminal_gets_colours_and_bars_but_the_result_is_the_same(
    python, child_environment, tiny_data, corpus, tmp_path
):
    """The progress bar goes to standard error; standard output stays clean."""
    main_end, far_end = pty.openpty()
    line = [python, "-m", "ladderlm.cli.main", "prepare", str(corpus), "--json"]
    line += ["--tokenizer", str(tiny_data / "tokenizer"), "--out", str(tmp_path / "out")]
    environment = {**child_environment, "TERM": "xterm"}
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=far_end) as child:
        out, _ = child.communicate(timeout=SECONDS)
    os.close(far_end)
    shown = b""
    try:
        while piece := os.read(main_end, 1 << 16):
            shown += piece
    except OSError:
        pass  # the other end is closed
    os.close(main_end)
    assert child.returncode == 0
    assert json.loads(out)["splits"]["train"]["n_documents"] == 60
    assert b"documents" in shown
