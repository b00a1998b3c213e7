"""Kinds told apart by their files, and imports that say what they are."""

import base64
import io
import json

import pytest
import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from builders import make_records
from ladderlm.errors import DataError
from ladderlm.files import sha256_file
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.bpe_file import tokenizer_json
from ladderlm.tokenizer.foreign import import_tokenizer
from ladderlm.tokenizer.hugging_face import HuggingFaceTokenizer
from ladderlm.tokenizer.load import copy_tokenizer, load_tokenizer, tokenizer_files
from ladderlm.tokenizer.sentencepiece import SentencePieceTokenizer

LINES = [line for r in make_records(60, seed=5) for line in r["text"].splitlines() if line]


def write_sentencepiece(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=model,
        minloglevel=2,
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def write_tiktoken(folder, ranks=None):
    ranks = ranks or {bytes([byte]): byte for byte in range(256)}
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    (folder / "tokenizer.model").write_bytes(b"".join(lines))


def write_byte_level(folder):
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=alphabet,
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    own.train_from_iterator(LINES, trainer)
    own.save(str(folder / "tokenizer.json"))


def write_words(folder):
    """Write a tokenizer that lower-cases."""
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.Lowercase()
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    own.train_from_iterator(LINES, trainer)
    own.save(str(folder / "tokenizer.json"))


KINDS = {
    "sentencepiece": (write_sentencepiece, SentencePieceTokenizer),
    "llama3-tiktoken": (write_tiktoken, BytePairTokenizer),
    "hugging-face": (write_byte_level, BytePairTokenizer),
    "lossy": (write_words, HuggingFaceTokenizer),
}


@pytest.fixture(params=list(KINDS))
def kind(request, tmp_path):
    """A foreign tokenizer in a folder."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    KINDS[request.param][0](folder)
    return request.param, folder


def take(name, folder, out):
    return import_tokenizer(folder, out, allow_lossy=name == "lossy")


def test_an_import_loads_with_the_ids_of_the_file(kind, tmp_path):
    name, folder = kind
    out = tmp_path / "own"
    imported = take(name, folder, out)
    loaded = load_tokenizer(out)
    assert type(loaded) is type(imported) is KINDS[name][1]
    keys = ("fingerprint", "vocab_size", "bos_id", "eos_id", "pad_id")
    record = json.loads((out / "ladderlm.json").read_text())
    assert record["kind"] == "ladderlm-tokenizer"
    assert record["model"] == (name if name != "lossy" else "hugging-face")
    assert all(getattr(loaded, k) == getattr(imported, k) == record[k] for k in keys)
    (file,) = [path for path in folder.iterdir() if path.name.startswith("tokenizer")]
    assert (out / file.name).read_bytes() == file.read_bytes()
    assert record["sha256"] == sha256_file(file)
    for text in NASTY_TEXTS:
        assert loaded.encode(text, bos=True, eos=True) == imported.encode(text, bos=True, eos=True)
    if name != "lossy":
        raw = load_tokenizer(file)
        assert raw.fingerprint == loaded.fingerprint
        assert raw.encode("the Model") == loaded.encode("the Model")


def test_the_files_of_a_folder_are_listed_and_copied(kind, tmp_path):
    name, folder = kind
    take(name, folder, tmp_path / "own")
    names = [path.name for path in tokenizer_files(tmp_path / "own")]
    assert names[-1] == "ladderlm.json"
    copy_tokenizer(tmp_path / "own", tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == sorted(names)
    for file in names:
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "own" / file).read_bytes()
    assert (
        load_tokenizer(tmp_path / "copy").fingerprint
        == load_tokenizer(tmp_path / "own").fingerprint
    )


def test_copying_a_foreign_tokenizer_imports_it(tmp_path):
    write_tiktoken(tmp_path)
    copy_tokenizer(tmp_path / "tokenizer.model", tmp_path / "own")
    copy_tokenizer(tmp_path, tmp_path / "own")
    assert load_tokenizer(tmp_path / "own").vocab_size == 512


def test_a_changed_byte_of_any_kind_is_refused(kind, tmp_path):
    """T17."""
    name, folder = kind
    out = tmp_path / "own"
    take(name, folder, out)
    path = tokenizer_files(out)[0]
    whole = path.read_bytes()
    for at in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DataError, match="sha256"):
            load_tokenizer(out)
    path.write_bytes(whole)
    load_tokenizer(out)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "sentencepeace"}, r"must be one of .*, got 'sentencepeace'"),
        ({"model": ["sentencepiece"]}, r"must be one of .*, got \['sentencepiece'\]"),
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"model": "byte-level-bpe"}, "not a byte-level BPE of ours"),
        ({"bos": None}, "does not say how"),
        ({"eos": "</s>"}, "no added tokens"),
        ({"lossy": None}, "does not say how"),
        ({"model": "sentencepiece"}, r"contains no tokenizer\.model, which ladderlm\.json names"),
    ],
)
def test_a_changed_record_is_refused(tmp_path, change, says):
    write_byte_level(tmp_path)
    import_tokenizer(tmp_path, tmp_path / "own")
    path = tmp_path / "own" / "ladderlm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=says):
        load_tokenizer(tmp_path / "own")


def test_the_stand_in_for_a_missing_bos_is_named(tmp_path):
    write_byte_level(tmp_path)
    import_tokenizer(tmp_path, tmp_path / "own")
    record = json.loads((tmp_path / "own" / "ladderlm.json").read_text())
    assert record["bos"] == record["eos"] == "<|endoftext|>"
    assert record["bos_is_substitute"] is True
    assert record["engine"] == "byte-level-bpe"
    assert record["lossy"] is False


def test_a_lossy_tokenizer_is_recorded_as_such(tmp_path):
    write_words(tmp_path)
    with pytest.raises(DataError, match="loses text"):
        import_tokenizer(tmp_path, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    import_tokenizer(tmp_path, tmp_path / "own", allow_lossy=True)
    record = json.loads((tmp_path / "own" / "ladderlm.json").read_text())
    assert (record["lossy"], record["engine"]) == (True, "tokenizers")
    assert (record["bos"], record["eos"]) == ("[CLS]", "[SEP]")


def test_control_tokens_can_be_named(tmp_path):
    write_words(tmp_path)
    named = import_tokenizer(tmp_path, tmp_path / "own", "[SEP]", "[UNK]", allow_lossy=True)
    assert (named.bos_id, named.eos_id) == (2, 0)
    with pytest.raises(DataError, match="no added token 'x'"):
        import_tokenizer(tmp_path, tmp_path / "own", bos="x", allow_lossy=True)


def test_control_tokens_of_other_files_cannot_be_named(tmp_path):
    write_tiktoken(tmp_path)
    with pytest.raises(DataError, match="fixed control tokens"):
        import_tokenizer(tmp_path, tmp_path / "own", bos="<s>")


def test_two_tokenizers_in_a_folder_are_not_chosen_between(tmp_path):
    write_byte_level(tmp_path)
    write_tiktoken(tmp_path)
    with pytest.raises(DataError, match=r"both tokenizer\.json and tokenizer\.model") as caught:
        load_tokenizer(tmp_path)
    assert "name the file" in caught.value.fix


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_place_without_a_tokenizer_is_named(tmp_path, make):
    place = tmp_path / "nowhere"
    make(place)
    with pytest.raises(DataError, match=r"contains no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(place)


def test_our_own_file_without_its_record_is_not_taken_for_a_foreign_one(tmp_path, tiny_tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(tiny_tokenizer.ranks))
    with pytest.raises(DataError, match=r"but its ladderlm\.json is missing"):
        load_tokenizer(tmp_path)
