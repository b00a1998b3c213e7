"""The data of a run: sizes, examples, batches, and the scores of models without training.

Owns the facts of the prepared data that a run was trained and evaluated on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ladderlm.data.config import DataConfig
from ladderlm.data.inspect import row_pieces
from ladderlm.data.shards import PreparedData, Split, open_data
from ladderlm.data.stream import RowStream
from ladderlm.errors import DataError
from ladderlm.eval.baselines import trivial_models
from ladderlm.files import read_json
from ladderlm.study.records import NoAnswer, parse_record
from ladderlm.tokenizer.base import RECORD, Tokenizer
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.training.run_config import RunConfig

__all__ = ["DataFacts", "TrivialScores", "read_data"]

N_EXAMPLE_DOCUMENTS = 3
EXAMPLE_CHARACTERS = 600
EXAMPLE_TOKENS = 96
MAX_TRIVIAL_BYTES = 100_000_000  # training text that the byte models count


@dataclass(frozen=True)
class TokenizerFacts:
    """Size of the vocabulary, and amount of text it was trained on, if known."""

    fingerprint: str
    vocab_size: int
    trained_on: Mapping[str, int] | None


@dataclass(frozen=True)
class SplitFacts:
    """Contents of a split, what was left out of it, and its source files."""

    n_documents: int
    n_bytes: int
    n_tokens: int
    subsets: Mapping[str, Mapping[str, int]]
    skipped: Mapping[str, int]
    fingerprint: str
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class CorpusFacts:
    """The packages that `fetch local` collected."""

    fingerprint: str
    n_bytes: int
    packages: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class ExampleDocument:
    """The beginning of a document; `cut`: the text is longer."""

    document: int
    subset: str
    n_bytes: int
    n_tokens: int
    text: str
    cut: bool


@dataclass(frozen=True)
class ExampleRow:
    """A row that holds the end of a document, and the tokens around that place.

    Args:
        pieces: runs of one document; document and subset are None on padding.
        tokens: place, token, target, segment and position of each; the token is None on padding,
            the target where there is none.
    """

    packing: str
    row: int
    seq_len: int
    n_targets: int
    pieces: tuple[Mapping[str, str | int | None], ...]
    tokens: tuple[Mapping[str, str | int | None], ...]


@dataclass(frozen=True)
class TrivialScores:
    """Bits per byte, on the run's validation text, of models that need no training run.

    Args:
        key: fingerprints of the two splits; scores of an older report are reused if it is equal.
    """

    key: tuple[str, ...]
    n_documents: int
    n_bytes: int
    bits_per_byte: Mapping[str, float]
    n_train_documents: int
    n_train_bytes: int


@dataclass(frozen=True)
class DataFacts:
    """The data of a run.

    Args:
        overlap: number of documents in both splits, by pair of splits.
        batches: a packed and a padded row.
    """

    fingerprint: str
    tokenizer: TokenizerFacts
    splits: Mapping[str, SplitFacts]
    overlap: Mapping[str, int]
    corpus: CorpusFacts | None
    examples: tuple[ExampleDocument, ...]
    batches: tuple[ExampleRow, ...]
    trivial: TrivialScores


def read_data(config: RunConfig, trivial: TrivialScores | None = None) -> DataFacts | NoAnswer:
    """Return the facts of a run's data, or why the data cannot be opened.

    Args:
        trivial: scores of an older report, reused if they are of the same data.
    """
    try:
        data = open_data(config.data.path or "")
        train, val = data.split(config.data.split), data.split(config.eval.split)
    except DataError as error:
        return NoAnswer(error.what.replace(str(config.data.path), "the data folder"))
    tokenizer = load_tokenizer(data.tokenizer_folder)
    if trivial is None or trivial.key != (train.fingerprint, val.fingerprint):
        trivial = _score_trivial_models(train, val, tokenizer, config.eval.n_documents)
    trained_on = read_json(data.tokenizer_folder / RECORD).get("trained_on")
    return DataFacts(
        fingerprint=data.manifest["fingerprint"],
        tokenizer=TokenizerFacts(data.tokenizer_fingerprint, data.vocab_size, trained_on),
        splits={name: _split_facts(data, name) for name in (train.name, val.name)},
        overlap=data.manifest["overlap"],
        corpus=_corpus_facts(data),
        examples=_example_documents(train, tokenizer),
        batches=(
            _example_row(data, train, tokenizer, config.data),
            _example_row(data, train, tokenizer, replace(config.data, packing="padded")),
        ),
        trivial=trivial,
    )


def _split_facts(data: PreparedData, name: str) -> SplitFacts:
    entry = data.manifest["splits"][name]
    return parse_record(SplitFacts, entry | {"sources": entry["request"]["sources"]})


def _corpus_facts(data: PreparedData) -> CorpusFacts | None:
    """Read the corpus.json next to the data, if `fetch` has written one."""
    record = data.path.parent / "corpus" / "corpus.json"
    return parse_record(CorpusFacts, read_json(record)) if record.is_file() else None


def _example_documents(split: Split, tokenizer: Tokenizer) -> tuple[ExampleDocument, ...]:
    """Return the beginning of the first document of each of the first subsets."""
    _, first = np.unique(split.subset_ids, return_index=True)
    examples = []
    for index in sorted(first.tolist())[:N_EXAMPLE_DOCUMENTS]:
        ids = split.document(index).tolist()
        text = tokenizer.decode(ids)
        examples.append(
            ExampleDocument(
                document=index,
                subset=split.subset_names[split.subset_ids[index]],
                n_bytes=int(split.n_bytes[index]),
                n_tokens=len(ids),
                text=text[:EXAMPLE_CHARACTERS],
                cut=len(text) > EXAMPLE_CHARACTERS,
            )
        )
    return tuple(examples)


def _example_row(
    data: PreparedData, split: Split, tokenizer: Tokenizer, config: DataConfig
) -> ExampleRow:
    """Return a row in which a document ends, with its tokens around that place."""
    stream = RowStream(split, config, data.bos_id)
    batch = stream.rows(0, min(256, stream.rows_per_epoch))
    segments = batch.segment_ids
    padded = config.packing == "padded"
    row = int(np.argmax(segments.min(axis=1) < 0 if padded else segments.max(axis=1) > 0))
    pieces = row_pieces(batch, row, split, tokenizer)
    border = pieces[1].start if len(pieces) > 1 else 0
    begin = max(0, min(border - EXAMPLE_TOKENS // 2, config.seq_len - EXAMPLE_TOKENS))

    def spell(token: int, known: bool) -> str | None:
        if not known:
            return None
        names = {tokenizer.bos_id: "<BOS>", tokenizer.eos_id: "<EOS>"}
        return names.get(token) or tokenizer.decode([token], continued=True)

    tokens = [
        {
            "place": t,
            "token": spell(int(batch.tokens[row, t]), bool(segments[row, t] >= 0)),
            "target": spell(int(batch.targets[row, t]), bool(batch.loss_mask[row, t])),
            "segment": int(segments[row, t]),
            "position": int(batch.positions[row, t]),
        }
        for t in range(begin, min(begin + EXAMPLE_TOKENS, config.seq_len))
    ]
    kept = ("start", "n_tokens", "document", "subset", "n_targets")
    return ExampleRow(
        packing=config.packing,
        row=row,
        seq_len=config.seq_len,
        n_targets=int(batch.loss_mask[row].sum()),
        pieces=tuple({name: getattr(piece, name) for name in kept} for piece in pieces),
        tokens=tuple(tokens),
    )


def _score_trivial_models(
    train: Split, val: Split, tokenizer: Tokenizer, n_documents: int
) -> TrivialScores:
    """Score the documents that the run is scored on by models that need no training run."""
    enough = int(np.searchsorted(np.cumsum(train.n_bytes), MAX_TRIVIAL_BYTES)) + 1
    n_train = min(enough, train.n_documents)

    def texts(split: Split, n: int) -> Iterator[bytes]:
        return (tokenizer.decode_bytes(split.document(i).tolist()) for i in range(n))

    scored = list(texts(val, min(n_documents, val.n_documents)))
    return TrivialScores(
        key=(train.fingerprint, val.fingerprint),
        **trivial_models(texts(train, n_train), scored),
        n_train_documents=n_train,
        n_train_bytes=int(train.n_bytes[:n_train].sum()),
    )
