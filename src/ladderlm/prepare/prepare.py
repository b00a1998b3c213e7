"""Turn text into token shards.

Owns `prepare`, its parts and their merging: the distribution of the work, the names of splits, and
the manifest that publishes them. The bytes depend on neither workers nor parts, and no file gets
its final name before it is whole.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from ladderlm.data.shards import (
    FORMAT_VERSION,
    files_of_split,
    manifest_fingerprint,
    open_data,
    token_dtype,
)
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import (
    FolderLock,
    check_free_space,
    make_folder,
    move_into_place,
    publish_json,
    read_json,
    remove_tree,
)
from ladderlm.prepare.assemble import assemble
from ladderlm.prepare.cleanup import STAGING, free_prefix, remove_leftovers, remove_temporary
from ladderlm.prepare.encoding import find_pieces
from ladderlm.prepare.estimate import PrepareEstimate, estimate_splits, take_samples
from ladderlm.prepare.overlap import check_overlap, count_overlap
from ladderlm.prepare.request import PrepareConfig, SplitRequest, request_splits
from ladderlm.prepare.workers import (
    Process,
    encode_here,
    encode_parts,
    sample_elsewhere,
    started_workers,
)
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer

__all__ = ["PrepareConfig", "estimate_prepare", "merge_parts", "prepare", "prepare_part"]

SMALL_BYTES = 8 << 20  # sources smaller than this are encoded without further processes
Progress = Callable[[str, int], None]


def prepare(
    config: PrepareConfig,
    progress: Progress = lambda *_: None,
    announce: Callable[[PrepareEstimate], None] = lambda _: None,
) -> dict[str, Any]:
    """Write or extend a data folder; return its manifest.

    A split that exists with the same request (sources by content, tokenizer, selection) is kept. A
    call that was killed resumes with its finished pieces, to the same bytes.

    Args:
        progress: called with split and documents encoded so far, from another thread.
        announce: called with the estimate before the work begins.

    Raises:
        DataError: bad input (file and line), another tokenizer in the folder, or overlap.
    """
    out = Path(config.out)
    tokenizer = load_tokenizer(config.tokenizer)
    with FolderLock(out):
        remove_temporary(out)
        manifest = _existing_manifest(out, tokenizer.fingerprint, config.tokenizer)
        requests = request_splits(config, out / STAGING / "stdin")
        todo = {n: r for n, r in requests.items() if not _is_done(manifest, n, r.record)}
        remove_leftovers(
            out, manifest, [r.folder_name(tokenizer.fingerprint) for r in todo.values()]
        )
        if not todo:
            check_overlap(manifest["overlap"], config.allow_overlap)
            return manifest
        copy_tokenizer(Path(config.tokenizer), out / "tokenizer")
        # Left in reverse order: killing the workers ends the thread that listens to them.
        with ThreadPoolExecutor(1) as listener, _workers_for(todo) as processes:
            expected = _estimate(todo, tokenizer, processes)
            announce(expected)
            check_free_space(out, expected.disk_bytes)
            folders = _piece_folders(todo, out / STAGING, tokenizer)
            encode = partial(_encode_splits, todo, folders, tokenizer, progress, processes)
            encoding: Future[None] = Future()
            if processes:
                encoding = listener.submit(encode)
            else:
                encoding.set_result(encode())

            def still_made() -> bool:
                return not encoding.done() or bool(encoding.result())  # raises what went wrong

            pieces = {
                name: find_pieces([folder], len(todo[name].files), still_made)
                for name, folder in folders.items()
            }
            manifest = _assemble_splits(out, manifest, todo, pieces, tokenizer)
            encoding.result()
        return _publish_splits(out, manifest, todo)


def _workers_for(
    requests: dict[str, SplitRequest], n_parts: int = 1
) -> AbstractContextManager[list[Process]]:
    """Start worker processes, or none if the work is small enough for this process."""
    n_workers = max(request.config.n_workers for request in requests.values())
    n_bytes = sum(file.state[0] for r in requests.values() for file in r.files)
    is_small = n_workers == 1 or n_bytes < SMALL_BYTES * n_parts
    return started_workers(0 if is_small else n_workers)


def _piece_folders(
    requests: dict[str, SplitRequest], out: Path, tokenizer: Tokenizer
) -> dict[str, Path]:
    """Create the folder for the pieces of each split."""
    folders = {n: out / r.folder_name(tokenizer.fingerprint) for n, r in requests.items()}
    for folder in folders.values():
        make_folder(folder)
    return folders


def _encode_splits(
    requests: dict[str, SplitRequest],
    folders: dict[str, Path],
    tokenizer: Tokenizer,
    progress: Progress,
    processes: list[Process],
    part: int = 0,
    n_parts: int = 1,
) -> None:
    """Make the pieces of a part of all splits in these folders."""
    n_workers = max(len(processes), 1)
    jobs = [r.jobs(folders[name], part, n_parts, n_workers) for name, r in requests.items()]
    lists = [list(own) for own in zip(*jobs, strict=True)]
    names, done = list(requests), Counter[str]()

    def report(split: int, n_documents: int) -> None:
        done[names[split]] += n_documents
        progress(names[split], done[names[split]])

    if processes:
        encode_parts(list(zip(processes, lists, strict=True)), report)
    else:
        encode_here(lists[0], tokenizer, report)
    for request in requests.values():
        for file in request.files:
            file.check_unchanged()


def estimate_prepare(config: PrepareConfig) -> PrepareEstimate:
    """Return the estimated cost of a `prepare`, from a sample; write nothing.

    Raises:
        DataError: no such source, or standard input, which can be read only once.
    """
    if "-" in config.sources:
        raise DataError("standard input cannot be estimated", fix="name a file instead of -")
    requests = request_splits(config, None)
    return _estimate(requests, load_tokenizer(config.tokenizer), [])


def _estimate(
    requests: dict[str, SplitRequest], tokenizer: Tokenizer, processes: list[Process]
) -> PrepareEstimate:
    take = partial(take_samples, tokenizer=tokenizer)
    if processes:  # they need an encoder anyway, and then this process does not
        take = partial(sample_elsewhere, processes)
    return estimate_splits(list(requests.values()), tokenizer.vocab_size, take)


def prepare_part(
    config: PrepareConfig, part: int, n_parts: int, progress: Progress = lambda *_: None
) -> Path:
    """Encode part 1 <= part <= n_parts of the work into `config.out`; return its record's path.

    A part is complete once its record, `part-<i>-of-<n>.json`, exists. Parts are independent: any
    machine may run any of them, in any order.

    Raises:
        DataError: bad input (file and line), or standard input, which parts cannot share.
    """
    if not 1 <= part <= n_parts:
        raise ConfigError(f"--part must be between 1/n and n/n, got {part}/{n_parts}")
    if "-" in config.sources:
        raise DataError("standard input cannot be cut into parts", fix="name a file instead of -")
    out = Path(config.out)
    tokenizer = load_tokenizer(config.tokenizer)
    record_path = out / f"part-{part}-of-{n_parts}.json"
    with FolderLock(out):
        if (out / "manifest.json").exists():
            raise DataError(f"{out} holds prepared data", fix="choose another --out for the part")
        remove_temporary(out)
        requests = request_splits(config, None)
        record = {
            "kind": "ladderlm-part",
            "format_version": FORMAT_VERSION,
            "part": part,
            "n_parts": n_parts,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "splits": {
                name: {"request": r.record, "folder": r.folder_name(tokenizer.fingerprint)}
                for name, r in requests.items()
            },
        }
        copy_tokenizer(Path(config.tokenizer), out / "tokenizer")
        with _workers_for(requests, n_parts) as processes:
            folders = _piece_folders(requests, out, tokenizer)
            _encode_splits(requests, folders, tokenizer, progress, processes, part - 1, n_parts)
        publish_json(record_path, record)
    return record_path


def merge_parts(folders: list[Path], out: Path, allow_overlap: bool = False) -> dict[str, Any]:
    """Merge all parts of one request into prepared data; return its manifest.

    The result equals that of one call of `prepare`, byte for byte.

    Raises:
        DataError: parts are of different requests, or one is missing, unfinished or damaged.
    """
    records = _read_parts(folders)
    first = records[0]
    tokenizer_folder = folders[0] / "tokenizer"
    tokenizer = load_tokenizer(tokenizer_folder)
    if tokenizer.fingerprint != first["tokenizer_fingerprint"]:
        what = f"{tokenizer_folder} is not the tokenizer of the parts"
        raise DataError(what, "its ids would mean other texts", "run the first part again")
    config = PrepareConfig(
        sources=(), tokenizer=str(tokenizer_folder), out=str(out), allow_overlap=allow_overlap
    )
    with FolderLock(out):
        remove_temporary(out)
        manifest = _existing_manifest(out, tokenizer.fingerprint, str(tokenizer_folder))
        todo, pieces = {}, {}
        for name, split in first["splits"].items():
            if not _is_done(manifest, name, split["request"]):
                todo[name] = SplitRequest(name, (), split["request"], config)
                places = [folder / split["folder"] for folder in folders]
                pieces[name] = find_pieces(places, len(split["request"]["sources"]))
        remove_leftovers(out, manifest, [])
        if not todo:
            check_overlap(manifest["overlap"], allow_overlap)
            return manifest
        copy_tokenizer(tokenizer_folder, out / "tokenizer")
        manifest = _assemble_splits(out, manifest, todo, pieces, tokenizer)
        return _publish_splits(out, manifest, todo)


def _read_parts(folders: list[Path]) -> list[dict[str, Any]]:
    """Read the records of all parts; check that they belong together and are complete."""
    records: list[dict[str, Any]] = []
    for folder in folders:
        found = sorted(folder.glob("part-*-of-*.json"))
        if not found:
            raise DataError(
                f"{folder} holds no finished part (no part-<i>-of-<n>.json)",
                fix="run that part again to resume it, or name the right folder",
            )
        records += [read_json(path) for path in found]
    first = records[0]
    for record in records:
        if record.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"a part has format {record.get('format_version')!r}, not {FORMAT_VERSION}",
                fix="run all parts again with this version of ladderlm",
            )
        if {**record, "part": 0} != {**first, "part": 0}:
            raise DataError(
                f"part {record.get('part')} and part {first['part']} are of different requests: "
                "sources, tokenizer, options or the number of parts differ",
                fix="run every part with the same command except for --part and --out",
            )
    missing = set(range(1, first["n_parts"] + 1)) - {record["part"] for record in records}
    if missing:
        raise DataError(
            f"part {min(missing)} of {first['n_parts']} is in none of the folders",
            fix=f"run `prepare --part {min(missing)}/{first['n_parts']}`, or name its folder too",
        )
    return records


def _assembled(out: Path, name: str) -> Path:
    return out / STAGING / f"{name}-assembled"


def _assemble_splits(
    out: Path,
    manifest: dict[str, Any],
    todo: dict[str, SplitRequest],
    pieces: dict[str, Iterator[tuple[int, Path]]],
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Assemble splits from their pieces as these arrive; return the manifest with them."""
    for name in set(manifest["splits"]) - set(todo):
        open_data(out).check_files(name)
    manifest = manifest | {"splits": dict(manifest["splits"])}
    for name, request in todo.items():
        folder = _assembled(out, name)
        remove_tree(folder)
        make_folder(folder)
        prefix, dtype = free_prefix(out, name), token_dtype(tokenizer.vocab_size)
        entry = assemble(folder, prefix, dtype, pieces[name], request.record)
        manifest["splits"][name] = entry | {"request": request.record}
    manifest["tokenizer"] = {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "folder": "tokenizer",
    }
    manifest["dtype"] = token_dtype(tokenizer.vocab_size).str
    return manifest


def _publish_splits(
    out: Path, manifest: dict[str, Any], todo: dict[str, SplitRequest]
) -> dict[str, Any]:
    """Check the overlap of assembled splits, and publish all of them at once."""
    folders = {n: _assembled(out, n) if n in todo else out for n in manifest["splits"]}
    allow_overlap = any(request.config.allow_overlap for request in todo.values())
    manifest["overlap"] = count_overlap(folders, manifest["splits"])
    check_overlap(manifest["overlap"], allow_overlap)
    for name in todo:
        for file in files_of_split(manifest["splits"][name]):
            move_into_place(folders[name] / file["file"], out / file["file"])
    manifest["fingerprint"] = manifest_fingerprint(manifest)
    publish_json(out / "manifest.json", manifest)
    remove_leftovers(out, manifest, [])
    return manifest


def _existing_manifest(out: Path, fingerprint: str, tokenizer: str) -> dict[str, Any]:
    if not (out / "manifest.json").exists():
        return {"kind": "ladderlm-data", "format_version": FORMAT_VERSION, "splits": {}}
    data = open_data(out)
    if data.tokenizer_fingerprint != fingerprint:
        raise DataError(
            f"{out} was prepared with another tokenizer than {tokenizer}",
            "its splits would not share their token ids",
            "choose another --out, or delete the folder to start over",
        )
    return data.manifest


def _is_done(manifest: dict[str, Any], name: str, record: dict[str, Any]) -> bool:
    return bool(manifest["splits"].get(name, {}).get("request") == record)
