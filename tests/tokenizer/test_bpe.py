"""Byte-pair encoding: any text survives, all encoders agree, damaged folders are refused."""

import json
import random
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.files import sha256_file
from ladderlm.tokenizer.base import BOS, EOS, NASTY_TEXTS
from ladderlm.tokenizer.bpe import BytePairTokenizer, encode_reference
from ladderlm.tokenizer.bpe_file import byte_alphabet, tokenizer_json
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.tokenizer.split import split_reference
from ladderlm.tokenizer.train import save_tokenizer

CONTROL_WORDS = [BOS, EOS, "<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "[INST]", "[/INST]"]
CONTROL_WORDS += ["<|eot_id|>", "<<SYS>>", "<bos>", "<mask>", "[CLS]", "<|im_start|>", "<0x0A>"]
# Assigned characters only: which of the others are letters differs between Unicode versions.
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])
# Pieces where the alternatives of the pattern meet, so that random texts get there often.
PIECES = [" ", "  ", "\t", "\n", "\r\n", "\n\n ", "\u00a0", "\u2028", "\u3000", "\x1c", "\x1f"]
PIECES += [
    "\x85",
    "\u200b",
    "\ufeff",
    "'s",
    "'S",
    "'\u017f",
    "'Ll",
    "'re",
    "'",
    "''ve",
    "1",
    "1234",
]
PIECES += ["\u0663", "\u00bd", "\u2167", "a", "The", "\u00e9", "e\u0301", "\u0130", "\u65e5\u672c"]
PIECES += ["\U0001f469\u200d\U0001f467", "!", "...", "_", "$", "\x00", "\x7f", *CONTROL_WORDS]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(ASSIGNED, max_size=6), max_size=12).map("".join)


@pytest.fixture(scope="module")
def hugging_face(tiny_tokenizer):
    """The same vocabulary in the `tokenizers` library."""
    other = HuggingFaceTokenizer.from_str(tokenizer_json(tiny_tokenizer.ranks))
    other.encode_special_tokens = True
    return other


@given(text=st.text() | TEXTS)
def test_any_text_comes_back_whole(tiny_tokenizer, text):
    """D10: decode(encode(x)) == x."""
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.decode_bytes(ids) == text.encode()


@given(text=st.text() | TEXTS)
@example(text=" ".join(CONTROL_WORDS))
def test_no_text_yields_a_control_id(tiny_tokenizer, text):
    """D10: BOS and EOS come from the caller alone."""
    ids = tiny_tokenizer.encode(text)
    assert all(token < tiny_tokenizer.bos_id for token in ids)
    framed = tiny_tokenizer.encode(text, bos=True, eos=True)
    assert framed == [tiny_tokenizer.bos_id, *ids, tiny_tokenizer.eos_id]
    assert tiny_tokenizer.decode(framed) == text


@pytest.mark.parametrize("word", CONTROL_WORDS)
def test_words_that_look_like_control_tokens_are_plain_text(tiny_tokenizer, hugging_face, word):
    """D10: in each encoder, alone and inside a text."""
    for text in (word, f"a{word}b", f" {word}\n", word * 2):
        ids = tiny_tokenizer.encode(text)
        assert len(ids) > 1
        assert max(ids) < tiny_tokenizer.bos_id
        assert tiny_tokenizer.decode(ids) == text
        assert encode_reference(text, tiny_tokenizer.ranks) == ids
        assert hugging_face.encode(text, add_special_tokens=False).ids == ids


@given(text=TEXTS)
@example(text="".join(NASTY_TEXTS))
def test_tiktoken_tokenizers_and_the_reference_give_the_same_ids(
    tiny_tokenizer, hugging_face, text
):
    assert tiny_tokenizer._tiktoken is not None
    ids = tiny_tokenizer.encode(text)
    assert encode_reference(text, tiny_tokenizer.ranks) == ids
    assert hugging_face.encode(text, add_special_tokens=False).ids == ids


@given(text=TEXTS)
def test_the_split_by_hand_is_the_split_of_the_pattern(hugging_face, text):
    pieces = list(split_reference(text))
    assert "".join(pieces) == text
    assert all(pieces)
    alphabet = byte_alphabet()
    spelt = ["".join(alphabet[byte] for byte in piece.encode()) for piece in pieces]
    assert spelt == [word for word, _ in hugging_face.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It's I'LL", ["It", "'s", " I", "'LL"]),
        ("12345", ["123", "45"]),
        ("  x", [" ", " x"]),
        ("x  ", ["x", "  "]),
        ("a\n\n  b", ["a", "\n\n", " ", " b"]),
        ("!!\n\nx", ["!!\n\n", "x"]),
        ("\tx", ["\tx"]),
        (" \n \nx", [" \n \n", "x"]),
        ("_name", ["_name"]),
        (" ...x", [" ...", "x"]),
    ],
)
def test_splits_by_hand(text, pieces):
    assert list(split_reference(text)) == pieces


def test_merges_go_by_rank_and_not_by_place():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"bc": 256, b"ab": 257, b"abc": 258}
    assert encode_reference("abc", ranks) == [258]
    assert encode_reference("abbc", ranks) == [257, 256]
    assert BytePairTokenizer(ranks).encode("abcabx") == [258, 257, ord("x")]


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\udc80" * 3])
def test_a_lone_surrogate_is_refused_with_its_place(tiny_tokenizer, text):
    at = text.index(text.strip("ok ")[0])
    with pytest.raises(DataError, match=f"lone surrogate .* at character {at}"):
        tiny_tokenizer.encode(text)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", [" ", "\t", "\n", "a", "1", "!", " \u3000"])
@pytest.mark.parametrize(("n", "end"), [(1_100_000, ""), (1_100_000, "x"), (99_000, "x")])
def test_long_runs_of_equal_characters_are_encoded(tiny_tokenizer, text, n, end):
    """D09: a giant run neither overflows a stack nor takes quadratic time."""
    text = text * n + end
    assert tiny_tokenizer.decode(tiny_tokenizer.encode(text)) == text


def test_batches_encode_each_text_alone(tiny_tokenizer):
    texts = ["a b", "", "c\n", "'s"]
    encoded = tiny_tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in encoded] == [tiny_tokenizer.encode(text) for text in texts]
    assert {ids.dtype.name for ids in encoded} == {"uint32"}


def test_bytes_that_are_no_utf8_decode_to_replacement_characters(tiny_tokenizer):
    euro = [tiny_tokenizer.ranks[bytes([byte])] for byte in "€".encode()]
    assert tiny_tokenizer.decode(euro) == "€"
    assert tiny_tokenizer.decode(euro[:2] + tiny_tokenizer.encode("a")) == "\ufffda"
    assert tiny_tokenizer.decode_bytes(euro[:2]) == "€".encode()[:2]
    assert tiny_tokenizer.decode_bytes([tiny_tokenizer.bos_id, tiny_tokenizer.eos_id]) == b""


@pytest.mark.parametrize("token", [-1, 320, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(tiny_tokenizer, token):
    """D12: never an index from the end of the table."""
    with pytest.raises(DataError, match=f"{token} is outside a vocabulary of 320"):
        tiny_tokenizer.decode([5, token])


def test_a_saved_tokenizer_loads_with_the_same_ids(tiny_tokenizer, tiny_tokenizer_folder):
    loaded = load_tokenizer(tiny_tokenizer_folder)
    assert loaded.fingerprint == tiny_tokenizer.fingerprint
    assert (loaded.vocab_size, loaded.bos_id, loaded.eos_id) == (320, 318, 319)
    assert loaded.n_words == 320
    for text in NASTY_TEXTS:
        assert loaded.encode(text) == tiny_tokenizer.encode(text)


def test_the_saved_file_opens_in_tokenizers_as_it_is(tiny_tokenizer, tiny_tokenizer_folder):
    other = HuggingFaceTokenizer.from_file(str(tiny_tokenizer_folder / "tokenizer.json"))
    assert other.get_vocab_size() == 320
    assert other.token_to_id(BOS) == tiny_tokenizer.bos_id
    assert other.token_to_id(EOS) == tiny_tokenizer.eos_id
    text = "for x in range(10):\n    print('it\\'s', x)  # ½ 日本\n"
    ids = tiny_tokenizer.encode(text)
    assert other.encode(text).ids == ids
    assert other.decode(ids) == text


def test_the_fingerprint_changes_with_any_token(tiny_tokenizer):
    ranks = dict(tiny_tokenizer.ranks)
    swapped = list(ranks)
    swapped[300], swapped[301] = swapped[301], swapped[300]
    other = BytePairTokenizer({word: rank for rank, word in enumerate(swapped)})
    fewer = BytePairTokenizer({word: rank for word, rank in ranks.items() if rank < 317})
    prints = {tiny_tokenizer.fingerprint, other.fingerprint, fewer.fingerprint}
    assert len(prints) == 3
    assert BytePairTokenizer(ranks).fingerprint == tiny_tokenizer.fingerprint


@pytest.fixture
def folder(tiny_tokenizer, tmp_path):
    """A tokenizer folder to damage."""
    save_tokenizer(tmp_path / "tokenizer", tiny_tokenizer, {"n_bytes": 5})
    return tmp_path / "tokenizer"


def change(path, edit):
    """Rewrite a JSON file through `edit(value)`."""
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def swap_two_tokens(value):
    vocab = value["model"]["vocab"]
    first, second = list(vocab)[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def test_another_vocabulary_of_the_same_size_is_refused_by_its_fingerprint(folder):
    """T17: equal sizes do not make equal tokenizers."""
    change(folder / "tokenizer.json", swap_two_tokens)
    with pytest.raises(DataError, match="does not match"):
        load_tokenizer(folder)


def reseal(folder):
    """Bring the recorded hash of the file up to date, as a careless hand might."""
    digest = sha256_file(folder / "tokenizer.json")
    change(folder / "ladderlm.json", lambda value: value.update(sha256=digest))


def test_a_resealed_file_is_still_refused_by_its_fingerprint(folder):
    change(folder / "tokenizer.json", swap_two_tokens)
    reseal(folder)
    with pytest.raises(DataError, match="fingerprint"):
        load_tokenizer(folder)


DAMAGES = {
    "no model": lambda v: v.pop("model"),
    "a list": lambda v: v.update(model=[]),
    "vocabulary is a list": lambda v: v["model"].update(vocab=["a"]),
    "a token is missing": lambda v: v["model"]["vocab"].pop("!"),
    "an id twice": lambda v: v["model"]["vocab"].update({"!": 5}),
    "an id is text": lambda v: v["model"]["vocab"].update({"!": "0"}),
    "an id is a fraction": lambda v: v["model"]["vocab"].update({"!": 0.0}),
    "an id is true": lambda v: v["model"]["vocab"].update({'"': True}),
    "an id is negative": lambda v: v["model"]["vocab"].update({"!": -1}),
    "an id is null": lambda v: v["model"]["vocab"].update({"!": None}),
    "a word outside the alphabet": lambda v: v["model"]["vocab"].update({"日": 318}),
    "another pattern": lambda v: v["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\s+"}
    ),
    "no pattern": lambda v: v.update(pre_tokenizer=None),
    "no control tokens": lambda v: v.update(added_tokens=[]),
    "control tokens swapped": lambda v: v["added_tokens"][0].update(id=319),
    "control tokens are text": lambda v: v.update(added_tokens="x"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_tokenizer_file_with_another_meaning_is_refused_by_name(folder, damage):
    change(folder / "tokenizer.json", DAMAGES[damage])
    reseal(folder)
    with pytest.raises(DataError) as caught:
        load_tokenizer(folder)
    assert str(folder / "tokenizer.json") in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"<html>404</html>"),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b"null"),
        ("ladderlm.json", None),
        ("ladderlm.json", b""),
        ("ladderlm.json", b"[]"),
        ("ladderlm.json", b"{}"),
    ],
)
def test_a_missing_or_foreign_file_is_named(folder, name, content):
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_tokenizer(folder)
    assert name in caught.value.what


def test_no_changed_byte_of_the_tokenizer_goes_unseen(folder):
    """A merge that our encoder does not read would still mislead another library."""
    path = folder / "tokenizer.json"
    whole = path.read_bytes()
    rng = random.Random(1)
    for _ in range(150):
        at = rng.randrange(len(whole))
        damaged = whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"tokenizer\.json"):
            load_tokenizer(folder)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        load_tokenizer(folder)


def test_without_tiktoken_the_ids_are_the_same(tiny_tokenizer_folder, child_environment):
    """The bare runner's machine has no tiktoken."""
    code = """
import json, sys
for name in ("tiktoken", "tokenizers", "regex"):
    sys.modules[name] = None
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.load import load_tokenizer
tokenizer = load_tokenizer(sys.argv[1])
assert tokenizer._tiktoken is None
print(json.dumps([tokenizer.encode(text) for text in json.load(sys.stdin)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_tokenizer_folder)],
        input=json.dumps(NASTY_TEXTS),
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = load_tokenizer(tiny_tokenizer_folder)
    assert json.loads(done.stdout) == [loaded.encode(text) for text in NASTY_TEXTS]


def test_the_alphabet_gives_each_byte_its_own_printable_character():
    alphabet = byte_alphabet()
    assert sorted(alphabet) == list(range(256))
    assert len(set(alphabet.values())) == 256
    assert all(char.isprintable() and not char.isspace() for char in alphabet.values())
    assert (alphabet[ord(" ")], alphabet[ord("\n")], alphabet[ord("a")]) == ("Ġ", "Ċ", "a")


def test_the_fingerprint_is_pinned():
    """Changing how it is made would orphan every prepared folder."""
    tokenizer = BytePairTokenizer({bytes([byte]): byte for byte in range(256)})
    hexes = [bytes([byte]).hex() for byte in range(256)]
    pattern = json.loads(tokenizer_json(tokenizer.ranks))["pre_tokenizer"]["pretokenizers"][0]
    expected = content_hash([pattern["pattern"]["Regex"], BOS, EOS, hexes])
    assert tokenizer.fingerprint == expected
    assert expected.startswith("80d7d8585f91")
