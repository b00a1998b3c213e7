"""`ladderlm prepare`: encode text into token shards."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from ladderlm.cli.options import parse, parse_part, print_json, progress_bar, to_argv
from ladderlm.errors import ConfigError, ExecutorError
from ladderlm.executors.base import Job, State, run_jobs
from ladderlm.executors.choice import ExecutorName, make_executor
from ladderlm.files import read_json, remove_tree
from ladderlm.prepare.estimate import PrepareEstimate
from ladderlm.prepare.prepare import (
    PrepareConfig,
    estimate_prepare,
    merge_parts,
    prepare,
    prepare_part,
)
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(PrepareConfig):
    """Encode text into verified token shards."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    tokenizer: str = ""
    """Folder of the tokenizer. Required without --merge."""
    executor: ExecutorName | None = None
    """Encode in as many jobs as there are workers, then merge them. local: processes on this
    machine. ray: a Ray cluster. slurm: a Slurm cluster. Default: encode in this process."""
    part: str | None = None
    """Encode part i of n, written as i/n, into the folder --out. Any machine may encode any part,
    and --merge joins all of them. Default: encode everything."""
    merge: bool = False
    """Merge parts into data; each SOURCE is the folder of one. The result is the same as without
    parts."""
    estimate: bool = False
    """Print the expected documents, tokens, disk space and time, and write nothing."""
    json: bool = False
    """Print JSON: the manifest, the record of the part with --part, or the estimate."""


def run(argv: list[str]) -> int:
    """Prepare data, a part of it, or an estimate."""
    options = parse(PrepareOptions, argv, "prepare")
    if not options.sources:
        raise ConfigError("no SOURCE is named", fix="name corpus files or folders, or - for stdin")
    if options.merge:
        _merge_parts(options, [Path(source) for source in options.sources])
        return 0
    if not options.tokenizer:
        raise ConfigError("--tokenizer is missing", fix="name the folder of a tokenizer")
    if options.estimate:
        found = estimate_prepare(options)
        if options.json:
            print_json(found.to_dict())
        else:
            print(found)
        return 0
    if options.part is not None:
        _prepare_part(options, options.part)
        return 0
    if options.executor is not None:
        _run_parts(options, options.executor)
        return 0
    with progress_bar("documents") as bar:
        manifest = prepare(options, lambda split, n: bar(n, split), _announce)
    _print_manifest(options, manifest)
    return 0


def _announce(found: PrepareEstimate) -> None:
    print(f"expected: {found}", file=sys.stderr, flush=True)


def _prepare_part(options: PrepareOptions, name: str) -> None:
    part, n_parts = parse_part(name)
    with progress_bar("documents") as bar:
        record = prepare_part(options, part, n_parts, lambda split, n: bar(n, split))
    if options.json:
        print_json(read_json(record))
    else:
        print(f"{record}: done. When all are: ladderlm prepare --merge DIR... --out DATA")


def _run_parts(options: PrepareOptions, name: ExecutorName) -> None:
    """Encode each part in a job, and merge them; finished parts of an earlier call are kept."""
    folder = Path(f"{options.out}.parts")
    shared = replace(options, executor=None, json=False, n_workers=1)
    jobs, outs = [], []
    for i in range(1, options.n_workers + 1):
        out = folder / f"{i}-of-{options.n_workers}"
        part = replace(shared, out=str(out), part=f"{i}/{options.n_workers}")
        argv = (sys.executable, "-m", "ladderlm.cli.main", "prepare", *to_argv(part))
        jobs.append(Job(out.name, argv, folder / f"{out.name}.log"))
        outs.append(out)

    def on_change(job: Job, state: State) -> None:
        print(f"part {job.name}: {state.value}", file=sys.stderr, flush=True)

    for outcome in run_jobs(make_executor(name, folder / "executor"), jobs, on_change):
        if outcome.state is State.FAILED:
            log = outcome.job.log.read_text(encoding="utf-8", errors="replace")
            raise ExecutorError(
                f"part {outcome.job.name} failed with exit code {outcome.exit_code}: "
                + visible(log.strip()[-2000:]),
                fix="remove the cause and run the same command again: finished parts are kept",
            )
    _merge_parts(options, outs)
    remove_tree(folder)


def _merge_parts(options: PrepareOptions, parts: list[Path]) -> None:
    _print_manifest(options, merge_parts(parts, Path(options.out), options.allow_overlap))


def _print_manifest(options: PrepareOptions, manifest: dict[str, Any]) -> None:
    if options.json:
        print_json(manifest)
    else:
        print(f"{options.out}: fingerprint {manifest['fingerprint'][:12]}")
        _print_data(manifest)


def _print_data(manifest: dict[str, Any]) -> None:
    """Print sizes per split and subset, documents left out, and the overlap of splits."""
    for name, split in manifest["splits"].items():
        print(
            f"  {name}: {split['n_documents']:,} documents, {format_bytes(split['n_bytes'])}, "
            f"{format_count(split['n_tokens'])} tokens"
        )
        for subset, counts in split["subsets"].items():
            rate = counts["n_bytes"] / max(counts["n_tokens"] - 2 * counts["n_documents"], 1)
            size, shown = format_bytes(counts["n_bytes"]), visible(subset)
            print(f"    {shown:<24} {counts['n_documents']:>8,}  {size:>8}  {rate:.2f} bytes/token")
        for source, taken in zip(split["request"]["sources"], split["taken"], strict=True):
            print(
                f"    from {visible(source['name'])}: {taken['n_documents']:,} documents, "
                f"{format_bytes(taken['n_bytes'])} of text; {source['n_bytes']:,} bytes, "
                f"SHA-256 {source['sha256'][:16]}"
            )
        for reason, count in split["skipped"].items():
            print(f"    left out: {count:,} x {reason}")
        for line in _duplicates(split["duplicates"]):
            print(f"    {line}")
    for pair, count in manifest["overlap"].items():
        print(f"  {pair}: {count} documents")


def _duplicates(found: dict[str, Any]) -> list[str]:
    lines = []
    if found["exact_removed"]:
        lines.append(f"left out: {found['exact_removed']:,} x exact duplicate")
    if found["exact_kept"]:
        lines.append(f"exact duplicates kept: {found['exact_kept']:,}; --dedup exact removes them")
    if "near" in found:
        lines.append(f"near duplicates of an earlier document: {found['near']['n_documents']:,}")
    return lines
