"""The README's commands are run as they stand; only what the table below says is put in place.

`make quickstart` and `make test` are run by `.ci/run`, and so is this: it takes half a minute.
"""

import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from builders import make_records, write_jsonl
from ladderlm.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Only URL, device and sizes are put in place of what the README says.
SUBSTITUTES = (
    ("ladderlm fetch pile", "ladderlm fetch pile --source {mirror}"),
    ("--device cuda", "--device cpu"),
    ("--nproc-per-node 8", "--nproc-per-node 2"),
    ("--vocab-size 8192", "--vocab-size 300"),
    ("--max-documents 100000", "--max-documents 40"),
    ("study plan", "study plan --no-probe"),
    ("--num-samples 3", "--num-samples 2 --max-new-tokens 8"),
    ("--preset llama-5m", "--preset llama-5m {small}"),
    ("--preset llama-124m", "--preset llama-124m {small}"),
    (
        "flops = [6.5e10, 1.6e11, 3.1e11, 7.6e11]\ntokens_per_param = 8",
        "flops = [2.5e8, 3.6e9]\ntokens_per_param = 0.5\nseeds = [1]\nmin_updates = 4",
    ),
)
SMALL = (
    "--model.dim 32 --model.n_layers 1 --model.n_heads 2 --model.max_seq_len 64 --data.seq_len 64 "
    "--train.n_steps 4 --train.global_batch_tokens 256 --eval.sample_tokens 4"
)
RUN_BY_CI = ("make quickstart", "make test")


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def put_in_place(text: str, mirror: str) -> str:
    """Apply the table."""
    for stated, ours in SUBSTITUTES:
        text = text.replace(stated, ours.format(mirror=mirror, small=SMALL))
    return text


@pytest.fixture
def mirror(tmp_path: Path):
    """A loopback server laid out as the Pile's sources are."""
    from backports import zstd

    folder = tmp_path / "mirror"
    for name, seed in (("train/00", 1), ("val", 2)):
        path = write_jsonl(folder / f"{name}.jsonl", make_records(60, seed=seed))
        (folder / f"{name}.jsonl.zst").write_bytes(zstd.compress(path.read_bytes()))
        path.unlink()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def run_line(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run one command line of the README in the folder that we are in; return what it prints."""
    words = shlex.split(line, comments=True)
    if words[0] == "ladderlm":  # here, since a process for each takes seconds to load torch
        code, printed = main(words[1:]), capsys.readouterr()
        assert code == 0, f"{line}\n{printed.out}\n{printed.err}"
        return printed.out
    assert words[0] == "torchrun"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_substitute_stands_in_the_readme():
    for stated, _ in SUBSTITUTES:
        assert stated in README, stated


def test_the_two_commands_are_those_of_the_makefile():
    first = blocks("sh")[0]
    for command in RUN_BY_CI:
        assert command in first
        assert re.search(rf"^.*\b{command.split()[1]}\b.*:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.readme
def test_commands_of_the_readme_run(
    tmp_path: Path,
    mirror: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    pile, one_gpu, many_gpus, study = blocks("sh")[1:]
    printed = ""
    for block in (pile, one_gpu, many_gpus):
        for line in put_in_place(block, mirror).splitlines():
            printed += run_line(line, tmp_path, capsys)
    assert "mean over subsets" in printed  # per-subset bits per byte of `eval`
    assert (tmp_path / "reports/pile-124m/index.html").is_file()
    assert (tmp_path / "runs/pile-124m-8gpu/summary.json").is_file()

    (tmp_path / "quickstart").mkdir()
    (tmp_path / "data/pile").rename(tmp_path / "quickstart/data")
    text = put_in_place(blocks("toml")[0], mirror)
    (tmp_path / "wide-mlp.toml").write_text(text, encoding="utf-8")
    for line in put_in_place(study, mirror).splitlines():
        run_line(line, tmp_path, capsys)
    assert (tmp_path / "studies/wide-mlp/report/index.html").is_file()

    (tmp_path / "runs/pile-5m").rename(tmp_path / "quickstart/best")
    code = blocks("python")[0] + "\nassert logits.ndim == 3 and logits.dtype == torch.float32\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
