"""What a report states of data: sizes, examples, batches, and models that need no training.

Owns the facts of the prepared data that a run was trained and evaluated on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

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
    """Size of the vocabulary, and on how much text it was trained, if that is known."""

    fingerprint: str
    vocab_size: int
    trained_on: Mapping[str, int] | None


@dataclass(frozen=True)
class SplitFacts:
    """What a split holds, what was left out of it, and where it came from."""

    n_documents: int
    n_bytes: int
    n_tokens: int
    subsets: Mapping[str, Mapping[str, int]]
    skipped: Mapping[str, int]
    fingerprint: str
    sources: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class CorpusFacts:
    """What `fetch local` collected."""

    fingerprint: str
    n_bytes: int
    packages: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class ExampleDocument:
    """The beginning of a document; `cut`: there is more of it."""

    document: int
    subset: str
    n_bytes: int
    n_tokens: int
    text: str
    cut: bool


@dataclass(frozen=True)
class ExampleToken:
    """One place of a row; None: padding as the input, or no target."""

    place: int
    token: str | None
    target: str | None
    segment: int
    position: int


@dataclass(frozen=True)
class ExamplePiece:
    """A run of one document in a row; document and subset are None on padding."""

    start: int
    n_tokens: int
    document: int | None
    subset: str | None
    n_targets: int


@dataclass(frozen=True)
class ExampleRow:
    """A row that holds the end of a document, token by token around that place."""

    packing: str
    row: int
    seq_len: int
    n_targets: int
    pieces: tuple[ExamplePiece, ...]
    tokens: tuple[ExampleToken, ...]


@dataclass(frozen=True)
class TrivialScores:
    """Bits per byte of models that need no training run, on the text that the run is scored on.

    Args:
        key: fingerprints of the two splits, by which old scores are taken over.
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
        overlap: documents in both splits, by pair of splits.
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
    """Describe the data of a run, or state that it is no longer there.

    Args:
        trivial: of an earlier report, taken over if it is about the same data.
    """
    try:
        data = open_data(config.data.path or "")
        train, val = data.split(config.data.split), data.split(config.eval.split)
    except DataError as error:
        return NoAnswer(error.what.replace(str(config.data.path), "the data folder"))
    tokenizer = load_tokenizer(data.tokenizer_folder)
    key = (train.fingerprint, val.fingerprint)
    if trivial is None or trivial.key != key:
        trivial = _score_trivial_models(train, val, tokenizer, config.eval.n_documents)
    return DataFacts(
        fingerprint=data.manifest["fingerprint"],
        tokenizer=TokenizerFacts(
            data.tokenizer_fingerprint,
            data.vocab_size,
            read_json(data.tokenizer_folder / RECORD).get("trained_on"),
        ),
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
    """Read the corpus.json next to the sources, if `fetch` has written one."""
    beside = data.path.parent / "corpus" / "corpus.json"
    return parse_record(CorpusFacts, read_json(beside)) if beside.is_file() else None


def _example_documents(split: Split, tokenizer: Tokenizer) -> tuple[ExampleDocument, ...]:
    """Return the beginnings of the first documents of different subsets."""
    examples: dict[int, ExampleDocument] = {}
    for index in range(split.n_documents):
        subset = int(split.subset_ids[index])
        if subset not in examples and len(examples) < N_EXAMPLE_DOCUMENTS:
            ids = split.document(index).tolist()
            text = tokenizer.decode(ids)
            examples[subset] = ExampleDocument(
                document=index,
                subset=split.subset_names[subset],
                n_bytes=int(split.n_bytes[index]),
                n_tokens=len(ids),
                text=text[:EXAMPLE_CHARACTERS],
                cut=len(text) > EXAMPLE_CHARACTERS,
            )
    return tuple(examples.values())


def _example_row(
    data: PreparedData, split: Split, tokenizer: Tokenizer, config: DataConfig
) -> ExampleRow:
    """Return a row that holds the end of a document, token by token where it changes."""
    stream = RowStream(split, config, data.bos_id)
    n_rows = min(256, stream.rows_per_epoch)
    batch = stream.rows(0, n_rows)
    padded = config.packing == "padded"
    row = next(
        (
            r
            for r in range(n_rows)
            if batch.segment_ids[r].min() < (0 if padded else 1)
            and batch.segment_ids[r].max() > (-1 if padded else 0)
        ),
        0,
    )
    pieces = row_pieces(batch, row, split, tokenizer)
    border = pieces[1].start if len(pieces) > 1 else 0
    begin = max(0, min(border - EXAMPLE_TOKENS // 2, config.seq_len - EXAMPLE_TOKENS))
    tokens = []
    for t in range(begin, min(begin + EXAMPLE_TOKENS, config.seq_len)):
        real = bool(batch.segment_ids[row, t] >= 0)
        token, target = int(batch.tokens[row, t]), int(batch.targets[row, t])
        tokens.append(
            ExampleToken(
                place=t,
                token=_text_of_token(token, tokenizer) if real else None,
                target=_text_of_token(target, tokenizer) if batch.loss_mask[row, t] else None,
                segment=int(batch.segment_ids[row, t]),
                position=int(batch.positions[row, t]),
            )
        )
    return ExampleRow(
        packing=config.packing,
        row=row,
        seq_len=config.seq_len,
        n_targets=int(batch.loss_mask[row].sum()),
        pieces=tuple(parse_record(ExamplePiece, vars(piece)) for piece in pieces),
        tokens=tuple(tokens),
    )


def _text_of_token(token: int, tokenizer: Tokenizer) -> str:
    if token == tokenizer.bos_id:
        return "<BOS>"
    return "<EOS>" if token == tokenizer.eos_id else tokenizer.decode([token], continued=True)


def _score_trivial_models(
    train: Split, val: Split, tokenizer: Tokenizer, n_documents: int
) -> TrivialScores:
    """Score the documents that the run is scored on by models that need no training run."""
    n_scored = min(n_documents, val.n_documents)
    texts = [tokenizer.decode_bytes(val.document(i).tolist()) for i in range(n_scored)]
    n_train, n_bytes = 0, 0
    while n_train < train.n_documents and n_bytes < MAX_TRIVIAL_BYTES:
        n_bytes += int(train.n_bytes[n_train])
        n_train += 1
    learned = (tokenizer.decode_bytes(train.document(i).tolist()) for i in range(n_train))
    return TrivialScores(
        key=(train.fingerprint, val.fingerprint),
        **trivial_models(learned, texts),
        n_train_documents=n_train,
        n_train_bytes=n_bytes,
    )
