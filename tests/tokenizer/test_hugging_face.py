"""Any tokenizer.json: byte-level BPE becomes ours at equal ids, the rest checks each text."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from builders import make_records
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe import BytePairTokenizer
from ladderlm.tokenizer.hugging_face import HuggingFaceTokenizer
from ladderlm.tokenizer.load import load_tokenizer

LINES = [record["text"] for record in make_records(100, seed=5)]
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)


def learn(tokenizer, trainer, path):
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.save(str(path))
    return path


def gpt2(path, special=("<|endoftext|>",), **options):
    """Train a byte-level BPE with GPT-2's split."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    own.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=ALPHABET, special_tokens=list(special), show_progress=False
    )
    return learn(own, trainer, path)


def cl100k(path):
    """Train a byte-level BPE with the split of GPT-4, and BOS and EOS."""
    own = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(CL100K), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    own.decoder = decoders.ByteLevel()
    own.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    own.enable_truncation(4)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=ALPHABET,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    return learn(own, trainer, path)


def llama2(path):
    """Train a character BPE with byte fall-back, as LLaMA 2's file is after conversion."""
    own = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    own.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=specials, show_progress=False)
    learn(own, trainer, path)
    value = json.loads(path.read_text())
    vocab = value["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    path.write_text(json.dumps(value))
    return path


def bert(path):
    """Train a lower-casing WordPiece."""
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=True)
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    return learn(own, trainer, path)


BYTE_LEVEL = {"gpt2": gpt2, "cl100k": cl100k}
TEXTS = st.text() | st.lists(
    st.sampled_from([*NASTY_TEXTS, " ", "\n", "<|endoftext|>", "<s>", "</s>", "'s", "12345"])
).map("".join)


@pytest.fixture(scope="module", params=[*BYTE_LEVEL, "llama2"])
def opened(request, tmp_path_factory):
    """A tokenizer of ours and the library's own, from one file."""
    make = {**BYTE_LEVEL, "llama2": llama2}[request.param]
    path = make(tmp_path_factory.mktemp("tok") / f"{request.param}.json")
    library = Tokenizer.from_file(str(path))
    library.no_truncation()
    library.encode_special_tokens = True
    return load_tokenizer(path), library


def keeps(tokenizer, text):
    """Leave out what LLaMA 2's file takes for a space."""
    return isinstance(tokenizer, BytePairTokenizer) or "▁" not in text


@given(text=TEXTS)
@example(text=" two  spaces")
def test_any_text_comes_back_whole_with_the_library_s_ids(opened, text):
    """D10."""
    tokenizer, library = opened
    if not keeps(tokenizer, text):
        with pytest.raises(DataError, match="loses a text"):
            tokenizer.encode(text)
        return
    ids = tokenizer.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes([tokenizer.bos_id, *ids, tokenizer.eos_id]) == text.encode()
    assert not set(tokenizer.controls.values()) & set(ids)


def test_batches_encode_each_text_alone(opened):
    tokenizer, _ = opened
    texts = [text for text in [*LINES, *NASTY_TEXTS] if keeps(tokenizer, text)]
    rows = tokenizer.encode_batch(texts)
    assert [row.tolist() for row in rows] == [tokenizer.encode(text) for text in texts]
    assert {row.dtype.name for row in rows} == {"uint32"}


def test_a_continuation_joins_what_came_before(opened):
    tokenizer, _ = opened
    whole = tokenizer.encode("the model the loss")
    for cut in range(1, len(whole)):
        begun, rest = tokenizer.decode(whole[:cut]), tokenizer.decode(whole[cut:], continued=True)
        assert begun + rest == "the model the loss"


@pytest.mark.parametrize("token", [-1, 10**6])
def test_an_id_outside_the_vocabulary_is_refused(opened, token):
    with pytest.raises(DataError, match="outside a vocabulary"):
        opened[0].decode([token])


def test_a_lone_surrogate_is_refused(opened):
    with pytest.raises(DataError, match="lone surrogate"):
        opened[0].encode("a\ud800")


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_byte_level_files_become_ours(tmp_path, name):
    tokenizer = load_tokenizer(BYTE_LEVEL[name](tmp_path / "a.json"))
    assert isinstance(tokenizer, BytePairTokenizer)
    assert tokenizer.vocab_size == 400
    euro = tokenizer.encode("€")
    assert tokenizer.decode_bytes(euro[:1]) == "€".encode()[:1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_giant_runs_are_encoded_with_foreign_patterns_too(tmp_path, name):
    """D09."""
    path = BYTE_LEVEL[name](tmp_path / "a.json")
    tokenizer = load_tokenizer(path)
    text = "a" + " " * 1_100_000 + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return path


NOT_CONVERTED = {
    "a prefix space": lambda v: v["pre_tokenizer"].update(add_prefix_space=True),
    "a normaliser": lambda v: v.update(normalizer={"type": "NFC"}),
    "dropout": lambda v: v["model"].update(dropout=0.5),
    "merges in another order": lambda v: v["model"]["merges"].reverse(),
    "a token that is no control": lambda v: v["added_tokens"].append(
        {"id": 400, "content": "zqzq", "special": False, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
    ),
    "a token outside the alphabet": lambda v: v["model"]["vocab"].update({"日": 400}),
}


@pytest.mark.parametrize("name", NOT_CONVERTED)
def test_what_ours_does_not_do_is_left_to_the_library(tmp_path, name):
    path = edit(gpt2(tmp_path / "a.json"), NOT_CONVERTED[name])
    try:
        tokenizer = load_tokenizer(path)
    except DataError as error:
        assert "loses text" in error.what  # noqa: PT017
        assert name in ("a prefix space", "a normaliser")
        return
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    text = LINES[0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    if name == "a token that is no control":
        assert 400 in tokenizer.encode("the zqzq")


def test_a_tokenizer_without_bos_lets_eos_stand_in(tmp_path):
    tokenizer = load_tokenizer(gpt2(tmp_path / "a.json"))
    assert tokenizer.bos_id == tokenizer.eos_id == 0
    assert tokenizer.encode("a", bos=True)[0] == 0


def test_the_files_beside_name_bos_and_eos(tmp_path):
    path = gpt2(tmp_path / "tokenizer.json", special=["<|im_start|>", "<|im_end|>", "</s>"])
    config = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (0, 1)
    first = tokenizer.fingerprint
    (tmp_path / "tokenizer_config.json").write_text("damaged")
    tokenizer = load_tokenizer(path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (2, 2)
    assert tokenizer.fingerprint != first


def test_a_tokenizer_without_eos_is_refused_with_its_tokens(tmp_path):
    path = gpt2(tmp_path / "a.json", special=["<mask>"])
    with pytest.raises(DataError, match="which token ends a document") as caught:
        load_tokenizer(path)
    assert "<mask>" in caught.value.why
    assert "--eos NAME" in caught.value.fix


def test_a_lossy_tokenizer_is_refused_with_the_text_it_loses(tmp_path):
    with pytest.raises(DataError, match=r"loses text: .* comes back as") as caught:
        load_tokenizer(bert(tmp_path / "a.json"))
    assert "--allow-lossy" in caught.value.fix


ADDED = b'{"content": "</s>", "id": 0, "special": true}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b"\xff\xfe",
        b'{"model": {}}',
        b'{"added_tokens": []}',
        b'{"model": {"type": "BPE"}, "added_tokens": [ADDED]}'.replace(b"ADDED", ADDED),
        b'{"model": {}, "added_tokens": [ADDED]}'.replace(b"ADDED", ADDED.replace(b"0", b'"0"')),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_tokenizer(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in caught.value.what
