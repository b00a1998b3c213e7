"""`ladderlm prepare`: text to token shards."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ladderlm.cli.options import parse, parse_part, print_json, progress_bar, to_argv
from ladderlm.data.estimate import PrepareEstimate
from ladderlm.data.prepare import (
    PrepareConfig,
    estimate_prepare,
    merge_parts,
    prepare,
    prepare_part,
)
from ladderlm.errors import ConfigError, ExecutorError
from ladderlm.executors.base import Job, State, run_jobs
from ladderlm.executors.choice import ExecutorName, make_executor
from ladderlm.files import read_json, remove_tree
from ladderlm.text import visible
from ladderlm.units import format_bytes, format_count, parse_bytes

__all__ = ["describe_data", "run"]


@dataclass(frozen=True)
class PrepareOptions:
    """Encode a corpus into verified token shards."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")]
    """.jsonl[.zst|.gz] or .txt files, folders of them, or - for standard input."""
    out: str
    """Data folder to write or extend; with --part, the folder of the part."""
    tokenizer: str | None = None
    """Tokenizer folder."""
    split: str | None = None
    """Name of the split. Default: train and val at once from a folder that holds both."""
    max_documents: int | None = None
    """Take the first this many documents of each split."""
    max_tokens: int | None = None
    """Take documents from the beginning of each split up to this many tokens, BOS and EOS in."""
    max_bytes: str | None = None
    """Take documents from the beginning of each split up to this much text, such as 500MB."""
    workers: int = 2
    """Processes that encode, or jobs of --executor; the bytes written do not depend on it."""
    executor: ExecutorName | None = None
    """Encode in as many jobs as there are workers, and merge them. Default: in this process."""
    part: str | None = None
    """Do part i of n only, as i/n: any machine may do any part. `--merge` makes data of them."""
    merge: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The SOURCEs are folders of parts: make data of them, the same bytes as without parts."""
    dedup: Literal["none", "exact"] = "none"
    """exact: leave out documents whose text stood earlier in the split."""
    near_duplicates: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Count documents that nearly stood earlier in the split (MinHash)."""
    text_key: str = "text"
    """Where a record's text is."""
    subset_key: str = "meta.pile_set_name"
    """Where a record's subset is."""
    skip_bad: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Leave out bad records and count them instead of stopping."""
    allow_overlap: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Accept validation documents that stand in train as well."""
    estimate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only say what it would take: documents, tokens, disk, time."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the manifest (with --estimate the estimate, with --part the record of the part)."""


def run(argv: list[str]) -> int:
    """Prepare as asked."""
    options = parse(PrepareOptions, argv, "prepare", "Encode a corpus into token shards.")
    if not options.sources:
        raise ConfigError("no SOURCE is named", "", "name corpus files or folders, or - for stdin")
    if options.merge:
        return _merge_parts(options)
    if options.tokenizer is None:
        raise ConfigError("--tokenizer is missing", "text is encoded by one", "name its folder")
    if options.workers < 1 or (options.max_documents is not None and options.max_documents < 1):
        raise ConfigError("--workers and --max-documents are at least 1")
    config = PrepareConfig(
        sources=options.sources,
        tokenizer=options.tokenizer,
        out=options.out,
        split=options.split,
        max_documents=options.max_documents,
        max_tokens=options.max_tokens,
        max_bytes=None if options.max_bytes is None else parse_bytes(options.max_bytes),
        n_workers=options.workers,
        text_key=options.text_key,
        subset_key=options.subset_key,
        skip_bad=options.skip_bad,
        allow_overlap=options.allow_overlap,
        dedup=options.dedup,
        near_duplicates=options.near_duplicates,
    )
    if options.estimate:
        found = estimate_prepare(config)
        if options.json:
            print_json(found.to_dict())
        else:
            print(found)
        return 0
    if options.part is not None:
        return _prepare_part(config, options)
    if options.executor is not None:
        return _on_executor(options, options.executor)
    with progress_bar("documents") as bar:
        manifest = prepare(config, lambda split, n: bar(n, split), _announce)
    _print_manifest(options, manifest)
    return 0


def _announce(found: PrepareEstimate) -> None:
    print(f"expected: {found}", file=sys.stderr, flush=True)


def _prepare_part(config: PrepareConfig, options: PrepareOptions) -> int:
    part, n_parts = parse_part(str(options.part))
    with progress_bar("documents") as bar:
        record = prepare_part(config, part, n_parts, lambda split, n: bar(n, split))
    if options.json:
        print_json(read_json(record))
    else:
        print(f"{record}: done. When all are: ladderlm prepare --merge DIR... --out DATA")
    return 0


def _on_executor(options: PrepareOptions, name: ExecutorName) -> int:
    """Have each part encoded by a job, and merge them; a call that was killed is called again."""
    folder = Path(f"{options.out}.parts")
    shared = replace(options, executor=None, json=False, workers=1)
    jobs, outs = [], []
    for i in range(1, options.workers + 1):
        out = folder / f"{i}-of-{options.workers}"
        part = replace(shared, out=str(out), part=f"{i}/{options.workers}")
        argv = (sys.executable, "-m", "ladderlm.cli.main", "prepare", *to_argv(part))
        jobs.append(Job(out.name, argv, folder / f"{out.name}.log"))
        outs.append(out)

    def on_change(job: Job, state: State) -> None:
        print(f"part {job.name}: {state.value}", file=sys.stderr, flush=True)

    for outcome in run_jobs(make_executor(name, folder / "executor"), jobs, on_change):
        if outcome.state is State.FAILED:
            said = outcome.job.log.read_text(encoding="utf-8", errors="replace")
            raise ExecutorError(
                f"part {outcome.job.name} failed with exit code {outcome.exit_code}: "
                + visible(said.strip()[-2000:]),
                "data is whole or not at all",
                "mend it and run the same command again: parts that are done stay done",
            )
    manifest = merge_parts(outs, Path(options.out), options.allow_overlap)
    remove_tree(folder)
    _print_manifest(options, manifest)
    return 0


def _merge_parts(options: PrepareOptions) -> int:
    manifest = merge_parts(
        [Path(source) for source in options.sources], Path(options.out), options.allow_overlap
    )
    _print_manifest(options, manifest)
    return 0


def _print_manifest(options: PrepareOptions, manifest: dict[str, Any]) -> None:
    if options.json:
        print_json(manifest)
    else:
        print(f"{options.out}: fingerprint {manifest['fingerprint'][:12]}")
        describe_data(manifest)


def describe_data(manifest: dict[str, Any]) -> None:
    """Print sizes per split and subset, what was left out, and the overlap."""
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
