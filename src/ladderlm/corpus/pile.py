"""Fetch files of the Pile: from the hub's cache, known sources in turn, a URL or a folder.

Owns the order of places, and fetching several files at once. Files are laid out as at the source:
30 training shards of about 14 GB, val and test of about 470 MB each.
"""

import logging
import threading
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ladderlm.config import require
from ladderlm.corpus.head import HeadLimits
from ladderlm.corpus.hub import cached_file, is_offline
from ladderlm.corpus.pile_origin import Origin, Taking
from ladderlm.corpus.pile_record import PileRecord
from ladderlm.corpus.pile_sources import (
    PACKED,
    PLAIN,
    PUBLISHED,
    SOURCES,
    Place,
    file_stems,
    places_for,
    read_list,
)
from ladderlm.corpus.threads import run_in_threads
from ladderlm.errors import ConfigError, DataError
from ladderlm.files import FolderLock, check_free_space
from ladderlm.units import format_bytes

__all__ = ["PileRequest", "fetch_pile"]

LARGE_BYTES = 2 * 10**9  # from this size on, a smaller download is suggested
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PileRequest:
    """Which files of the Pile are wanted, and how much of each."""

    split: str = "val"
    """Split to fetch: train, val or test."""
    shards: tuple[int, ...] = (0,)
    """Shards of the training split, by their numbers from 0 to 29. Each has about 14 GB."""
    source: str | None = None
    """Name of a known source, a URL, or a folder with the files. Default: the known sources in
    turn."""
    max_bytes: int | None = None
    """Fetch only the head of each file, up to this much text. Default: whole files."""
    max_documents: int | None = None
    """Fetch only the head of each file, up to this many documents. Default: whole files."""
    n_jobs: int = 4
    """Number of files to fetch at the same time."""

    def __post_init__(self) -> None:
        require("--jobs", self.n_jobs, self.n_jobs >= 1, "be at least 1")

    @property
    def limits(self) -> HeadLimits:
        """How much of each file to fetch."""
        return HeadLimits(self.max_bytes, self.max_documents)


def fetch_pile(
    out: Path,
    request: PileRequest,
    *,
    progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
    say: Callable[[str], None] = lambda line: None,
    back_off_seconds: float = 1.0,
) -> dict[str, Any]:
    """Fetch files of the Pile and return the record in `pile.json`. Intact files are kept.

    Args:
        out: folder; train shards go to `out/train/`.
        request: a folder as its source is laid out as `train/00.jsonl.zst`, `val.jsonl.zst`.
        progress: called with file name, bytes so far and in all, from several threads.
        say: called with each line about what will be fetched and what was.
        back_off_seconds: pause after a failure of a server; doubles with each consecutive one.

    Raises:
        ConfigError: no such split, shard or source, or it would mix two corpora.
        DataError: no source has the file; lists the answer of each, and what to do by hand.
        LadderError: the disk is too small for all files together.
    """
    split, source = request.split, request.source
    stems = file_stems(split, request.shards)
    places = places_for(split, source)
    taking = Taking(request.limits, progress, back_off_seconds, threading.Event())
    with FolderLock(out):
        record = PileRecord(out)
        missing = [stem for stem in stems if not record.has(stem, taking.limits, say)]
        if split == "train":
            places = _of_one_corpus(places, record.corpus_of_train(), source)
        call = _Call(record, taking, request.n_jobs, say)
        complaints: dict[str, list[str]] = {stem: [] for stem in missing}
        for corpus in dict.fromkeys(place.corpus for place in places):
            group = [place for place in places if place.corpus == corpus]
            missing = call.fetch(missing, group, complaints)
            if not missing or (len(missing) < len(stems) and split == "train"):
                break  # the rest of another corpus would be a mixture
        if missing:
            raise _nowhere(missing, complaints, out, source)
        record.tidy(stems)
        return record.value


def _of_one_corpus(places: list[Place], known: str | None, source: str | None) -> list[Place]:
    """Leave out places whose training shards are of another corpus than those that are there."""
    kept = [place for place in places if None in (known, place.corpus) or place.corpus == known]
    if not kept:
        raise ConfigError(
            f"--source {source} has shards of {places[0].corpus}, the folder has shards of {known}",
            "the data would mix two corpora",
            "choose another --out, or leave --source out",
        )
    return kept


class _Call:
    """State of one call of `fetch_pile`: what is known about the places so far."""

    def __init__(
        self, record: PileRecord, taking: Taking, n_jobs: int, say: Callable[[str], None]
    ) -> None:
        self.record, self.taking, self.n_jobs, self.say = record, taking, n_jobs, say
        self.silent_hosts: set[str] = set()  # did not answer a first question in time
        self.dead_hosts: set[str] = set()  # did not answer after many tries
        self._lists: dict[str | Path, dict[str, str]] = {}

    def fetch(
        self, stems: list[str], places: list[Place], complaints: dict[str, list[str]]
    ) -> list[str]:
        """Fetch files from places of one corpus; return those that none of them has.

        Args:
            complaints: by stem; the errors of each place are added.
        """
        origins = {stem: self._origins(stem, places) for stem in stems}
        for stem in stems:
            if is_offline() and not origins[stem]:
                lacking = "HF_HUB_OFFLINE is set, and the hub's cache has no such file"
                complaints[stem].append(lacking)
        self._announce(origins)
        done: set[str] = set()

        def fetch_one(stem: str) -> None:
            if self._fetch_one(stem, origins[stem], complaints[stem]):
                done.add(stem)

        run_in_threads(fetch_one, stems, self.n_jobs, self.taking.stop)
        return [stem for stem in stems if stem not in done]

    def _origins(self, stem: str, places: list[Place]) -> list[Origin]:
        """Return where a file may be, in the order of trying: this disk before the network."""
        here, far = [], []
        for place in places:
            for suffix in place.suffixes:
                name = stem + suffix
                if place.repository and (cached := cached_file(place.repository, name)):
                    file, digest = cached
                    says = "its name in the hub's cache" if digest else None
                    here.append(Origin(place, name, file, digest, says))
                if isinstance(place.base, Path):
                    here.append(Origin(place, name, place.base / name))
                elif not (place.repository and is_offline()):
                    far.append(Origin(place, name, f"{place.base}/{name}"))
        return here + far

    def _learn(self, origin: Origin) -> None:
        """Look up the hash and the length of a file."""
        place = origin.place
        if origin.sha256 is None and not (is_offline() and place.repository):
            is_silent = urlsplit(str(place.base)).netloc in self.silent_hosts
            if place.has_list and place.base not in self._lists and not is_silent:
                self._lists[place.base] = read_list(place.base)
            if known := place.published(origin.name, self._lists.get(place.base, {})):
                origin.sha256, origin.says = known
        origin.ask(self.silent_hosts)

    def _announce(self, origins: dict[str, list[Origin]]) -> None:
        """Report what will be fetched, and refuse what the disk cannot hold."""
        limits, sizes = self.taking.limits, []
        for stem, candidates in origins.items():
            for origin in candidates:
                self._learn(origin)
                if (n_bytes := origin.n_bytes) is not None:
                    sizes.append(n_bytes)
                    head = f"up to {limits.spell()} out of " if limits else ""
                    place = origin.place.name
                    self.say(f"{origin.name}: {head}{format_bytes(n_bytes)} from {place}")
                    if not limits:
                        there = self.record.bytes_in_parts([stem])
                        self.taking.progress(origin.name, there, n_bytes)
                    break
        needed = sum(sizes)
        if limits:  # the range of the source and the result, both at most as large as the text
            text = len(origins) * limits.text_bytes
            needed = min(2 * needed, text) if sizes else text
        else:
            if needed > LARGE_BYTES:
                size = format_bytes(needed)
                self.say(f"{size} in all; --max-bytes 500MB would fetch only the head of each")
            needed -= self.record.bytes_in_parts(list(origins))
        check_free_space(self.record.out, max(needed, 0))

    def _fetch_one(self, stem: str, origins: list[Origin], complaints: list[str]) -> bool:
        """Try the origins of one file in turn; return whether one has it."""
        for origin in origins:
            host = "" if isinstance(origin.at, Path) else urlsplit(origin.at).netloc
            if host in self.dead_hosts:
                complaints.append(f"{origin.at}: not tried, since {host} does not answer")
                continue
            self._learn(origin)
            name = stem + PACKED if self.taking.limits else origin.name
            publish = partial(self.record.add, origin.place, name)
            try:
                origin.take(self.record.out / name, self.taking, publish)
            except DataError as error:
                complaints.append(error.what)
                cause = error.__cause__
                if isinstance(cause, OSError) and not isinstance(cause, urllib.error.HTTPError):
                    self.dead_hosts.add(host)  # it did not answer at all
                _log.warning("%s", f"{error.what} ({error.why})" if error.why else error.what)
                continue
            if host:
                total = "" if origin.n_bytes is None else f" of {format_bytes(origin.n_bytes)}"
                self.say(f"{name}: {format_bytes(origin.n_received)}{total} came over the network")
            return True
        return False


def _nowhere(
    missing: list[str], complaints: dict[str, list[str]], out: Path, source: str | None
) -> DataError:
    """Return an error with the answer of every place, and what to do by hand."""
    name = missing[0] + PACKED
    split = missing[0].partition("/")[0]
    others = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
    known = [known.repository for known in SOURCES.values() if split in known.splits]
    digest = f" (the original has SHA-256 {PUBLISHED[name]})" if name in PUBLISHED else ""
    ways = [
        "run the same command again later: it resumes where it stopped",
        f"or fetch the file by hand{digest}, put it at {out / name} (plain: {missing[0]}{PLAIN}), "
        "and run the same command again, which hashes and records it; then `ladderlm prepare`",
        "or name a mirror: --source URL|FOLDER, HF_ENDPOINT for a mirror of the hub, HF_TOKEN "
        "if it needs a login",
    ]
    if source is None:
        pages = (f"https://huggingface.co/datasets/{repository}" for repository in known)
        ways.append(f"known places: {', '.join(pages)}")
    if is_offline():
        ways.insert(0, "unset HF_HUB_OFFLINE")
    why = "\n    ".join(dict.fromkeys(complaints[missing[0]]))
    return DataError(f"no source has {name}{others}", why, "\n    ".join(ways))
