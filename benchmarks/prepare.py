"""How fast a corpus becomes tokens on this machine, beside the ways of two peers.

    python benchmarks/prepare.py SOURCE --tokenizer DIR [--workers 2] [--rounds 3]

SOURCE is a folder of `.jsonl.zst` files in the Pile's format, DIR a tokenizer of ours. Contenders
take turns in processes of their own, with the same vocabulary and the same number of processes:

- `ladderlm prepare` with everything that it does by default;
- `datasets` with tiktoken, the way of nanoGPT's OpenWebText script: a table of the records, `map`
  over it, the ids written end to end to one file (it hashes, counts and checks nothing);
- litgpt's own script for SlimPajama, where litgpt, litdata and zstandard are installed. It wants
  the name of a subset under another key, so it is given a copy with that key, made before the
  clock starts.

Seconds are of the whole command, from its start.
"""
# ruff: noqa: T201

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

WAYS = ("ladderlm", "datasets", "litgpt")


def by_ladderlm(source: Path, tokenizer: Path, out: Path, workers: int) -> None:
    """Prepare all splits."""
    from ladderlm.cli.main import main

    arguments = ["prepare", str(source), "--tokenizer", str(tokenizer), "--out", str(out)]
    main([*arguments, "--workers", str(workers)])


def by_datasets(source: Path, tokenizer: Path, out: Path, workers: int) -> None:
    """Encode with tiktoken in `map`, then write the rows to one file of uint16."""
    import numpy as np
    import tiktoken
    from datasets import load_dataset

    from ladderlm.tokenizer.bpe import BytePairTokenizer
    from ladderlm.tokenizer.load import load_tokenizer

    own = load_tokenizer(tokenizer)
    assert isinstance(own, BytePairTokenizer)
    coder = tiktoken.Encoding(
        "ours",
        pat_str=own.pattern,
        mergeable_ranks=dict(own.ranks),
        special_tokens=dict(own.controls),
    )

    def encode(record: dict[str, Any]) -> dict[str, Any]:
        ids = [*coder.encode_ordinary(record["text"]), own.eos_id]
        return {"ids": ids, "n": len(ids)}

    files = [str(path) for path in _files(source)]
    rows = load_dataset("json", data_files=files, cache_dir=str(out / "cache"), split="train")
    rows = rows.map(encode, remove_columns=rows.column_names, num_proc=workers)
    total = int(np.sum(rows["n"], dtype=np.uint64))
    tokens = np.memmap(out / "train.bin", np.uint16, "w+", shape=(total,))
    at = 0
    for part in range(64):
        block = rows.shard(64, part, contiguous=True).with_format("numpy")
        ids = np.concatenate(block["ids"])
        tokens[at : at + len(ids)] = ids
        at += len(ids)
    tokens.flush()


def by_litgpt(source: Path, tokenizer: Path, out: Path, workers: int) -> None:
    """Run litgpt's recipe; it takes as many processes as there are cores."""
    from litgpt.data.prepare_slimpajama import prepare

    from ladderlm.tokenizer.base import BOS, EOS

    assert workers == os.cpu_count()
    named = out / "tokenizer"  # litgpt looks for the names of the control tokens beside it
    shutil.copytree(tokenizer, named)
    names = {"bos_token": BOS, "eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
    (named / "tokenizer_config.json").write_text(json.dumps(names))
    prepare(input_dir=source, output_dir=out / "data", tokenizer_path=named)


def _files(source: Path) -> list[Path]:
    train = sorted((source / "train").glob("*.jsonl.zst"))
    return [*train, *sorted(source.glob("val.jsonl.zst"))]


def relabel(source: Path, out: Path) -> None:
    """Copy the files with the key that litgpt looks at."""
    from ladderlm.corpus.decompress import zstd
    from ladderlm.corpus.documents import read_blocks

    out.mkdir()
    for path in _files(source):
        lines = []
        for block in read_blocks(path, path.name):
            for line in block.raw.splitlines():
                record = json.loads(line)
                record["meta"]["redpajama_set_name"] = record["meta"]["pile_set_name"]
                lines.append(json.dumps(record, ensure_ascii=False).encode())
        (out / path.name).write_bytes(zstd.compress(b"\n".join(lines) + b"\n"))


def n_text_bytes(source: Path) -> int:
    """Count the UTF-8 bytes of all texts."""
    from ladderlm.corpus.documents import Reader

    return sum(len(document.text.encode()) for document in Reader(_files(source)))


def main() -> None:
    """Measure all contenders in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="do one once, into --out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.way:
        way = {"ladderlm": by_ladderlm, "datasets": by_datasets, "litgpt": by_litgpt}[options.way]
        way(options.source, options.tokenizer, options.out, options.workers)
        return
    ways = ["ladderlm"]
    peers = {"datasets": ("datasets",), "litgpt": ("litgpt", "litdata", "zstandard")}
    for name, needed in peers.items():
        missing = [package for package in needed if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} not installed")
        else:
            ways.append(name)
    n_bytes = n_text_bytes(options.source)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        relabelled = Path(folder) / "relabelled"
        if "litgpt" in ways:
            relabel(options.source, relabelled)
        for _ in range(options.rounds):
            for name in ways:
                out = Path(folder) / name
                shutil.rmtree(out, ignore_errors=True)
                out.mkdir()
                source = relabelled if name == "litgpt" else options.source
                command = [sys.executable, __file__, str(source), "--way", name, "--out", str(out)]
                command += ["--tokenizer", str(options.tokenizer.resolve())]
                started = time.perf_counter()
                subprocess.run(
                    [*command, "--workers", str(options.workers)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                seconds[name].append(time.perf_counter() - started)
    print(f"{n_bytes / 1e6:.1f} MB of text, {options.workers} processes, {options.rounds} rounds")
    for name in ways:
        middle = median(seconds[name])
        speed, ratio = n_bytes / 1e6 / middle, middle / median(seconds["ladderlm"])
        spread = f"{min(seconds[name]):.1f} to {max(seconds[name]):.1f}"
        print(f"{name:10s} {middle:7.1f} s ({spread})  {speed:6.1f} MB/s  {ratio:5.1f}")


if __name__ == "__main__":
    main()
