"""The fast encoder: the ids of tiktoken or none, whatever is installed and whoever calls."""

import logging
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_records
from ladderlm.errors import ConfigError, DataError
from ladderlm.tokenizer import fast
from ladderlm.tokenizer.base import NASTY_TEXTS
from ladderlm.tokenizer.bpe import BytePairTokenizer, encode_reference
from ladderlm.tokenizer.bpe_file import tokenizer_json

TEXTS = [record["text"] for record in make_records(200, seed=9)]
BATCH = [*TEXTS, *NASTY_TEXTS, "x" * fast.SMALL]
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])


@pytest.fixture
def tokenizer(tiny_tokenizer):
    """A fresh one: the choice of a library is kept."""
    return BytePairTokenizer(tiny_tokenizer.ranks)


@pytest.fixture(scope="module")
def installed():
    pytest.importorskip("fastokens", reason="[fast] fastokens is not installed")


def plain(tokenizer, texts):
    return [tokenizer.encode(text) for text in texts]


def as_lists(rows):
    assert {row.dtype.name for row in rows} <= {"uint32"}
    return [row.tolist() for row in rows]


@pytest.fixture(scope="module")
def encoder(installed, tiny_tokenizer):
    """Fastokens with the tiny vocabulary."""
    return fast.load_fastokens(tokenizer_json(tiny_tokenizer.ranks, controls={}))


@given(
    texts=st.lists(
        st.text() | st.sampled_from(NASTY_TEXTS) | st.text(" \t\n\r'sxé!1", max_size=40), max_size=8
    )
)
def test_fastokens_gives_the_ids_of_tiktoken(encoder, tiny_tokenizer, texts):
    """D10: control words in a text are plain text there too."""
    expected = plain(tiny_tokenizer, texts)
    assert as_lists(encoder(texts)) == expected


@given(text=st.text(ASSIGNED) | st.text(" \t\n\r'sxé!1", max_size=40))
def test_fastokens_gives_the_ids_of_the_reference(encoder, tiny_tokenizer, text):
    assert encoder([text])[0].tolist() == encode_reference(text, tiny_tokenizer.ranks)


def test_newer_letters_of_one_unicode_change_no_id(installed, monkeypatch):
    """Characters behind a letter, a digit and a mark: the ids are tiktoken's."""
    monkeypatch.setenv("LADDERLM_ENCODER", "fastokens")
    monkeypatch.setattr(fast, "SPOT", 0)  # the rule itself, not the check of it
    spelt = [bytes([byte]) for byte in range(256)]
    spelt += [first + bytes([byte]) for first in (b"a", b"1", b"!") for byte in range(0xC2, 0xF5)]
    probe = BytePairTokenizer({token: rank for rank, token in enumerate(spelt)})
    codes = [*range(0xA0, 0xD800, 37), *range(0xE000, 0x1D000, 23), *range(0x1D000, 0x110000, 401)]
    texts = [f"a{chr(c)} 1{chr(c)} !{chr(c)}\n" for c in [*codes, 0x18D1D, 0x32ABB, 0x1CB7F]]
    assert as_lists(probe.encode_batch([*texts, "x" * fast.SMALL]))[:-1] == plain(probe, texts)
    assert probe._batches.library == "fastokens"


@pytest.mark.parametrize("name", fast.LIBRARIES)
def test_the_library_named_by_the_environment_is_used_and_logged(
    installed, tokenizer, monkeypatch, caplog, name
):
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("LADDERLM_ENCODER", name)
    assert as_lists(tokenizer.encode_batch(BATCH)) == plain(tokenizer, BATCH)
    assert tokenizer._batches.library == name
    assert as_lists(tokenizer.encode_batch(TEXTS)) == plain(tokenizer, TEXTS)
    assert [line for line in caplog.messages if f"encoding with {name}" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_an_unknown_library_is_refused_with_the_known(tokenizer, monkeypatch):
    monkeypatch.setenv("LADDERLM_ENCODER", "slowtoken")
    with pytest.raises(ConfigError, match="one of fastokens, tiktoken, got slowtoken"):
        tokenizer.encode_batch(BATCH)


def test_a_library_that_is_named_and_missing_is_refused_with_its_extra(tokenizer, monkeypatch):
    put_in_place(monkeypatch, tokenizer, ImportError)
    monkeypatch.setenv("LADDERLM_ENCODER", "fastokens")
    with pytest.raises(ConfigError, match="not installed") as caught:
        tokenizer.encode_batch(BATCH)
    assert "ladderlm[fast]" in caught.value.fix


def test_small_batches_choose_nothing(tokenizer):
    assert as_lists(tokenizer.encode_batch(["ab", ""])) == plain(tokenizer, ["ab", ""])
    assert tokenizer._batches.library is None
    assert tokenizer.encode_batch([]) == []


def put_in_place(monkeypatch, tokenizer, rule, disputed=False):
    """Put a made-up library in the place of fastokens; its ids are wrong where `rule` says."""
    honest = tokenizer._encode_text

    def encode(texts):
        return [np.array(honest(text) + [0] * rule(text), dtype=np.uint32) for text in texts]

    def load(spelling):
        if rule is ImportError:
            raise ImportError
        return encode

    monkeypatch.delenv("LADDERLM_ENCODER", raising=False)
    monkeypatch.setattr(fast, "load_fastokens", load)
    monkeypatch.setattr(fast.importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(fast, "_any_disputed", lambda: disputed)


@pytest.mark.parametrize(
    ("rule", "disputed", "message"),
    [
        (lambda text: text == NASTY_TEXTS[3], False, "fastokens returns different ids"),
        (lambda text: text == TEXTS[0], False, "fastokens returns different ids"),
        (lambda text: False, True, "fastokens knows another version of Unicode"),
        (lambda text: 1 // 0, False, "fastokens failed: integer division"),
        (ImportError, False, "fastokens is not installed"),
    ],
)
def test_a_library_that_differs_or_fails_is_passed_over_with_the_reason(
    tokenizer, monkeypatch, caplog, rule, disputed, message
):
    caplog.set_level(logging.INFO)
    put_in_place(monkeypatch, tokenizer, rule, disputed)
    assert as_lists(tokenizer.encode_batch(BATCH)) == plain(tokenizer, BATCH)
    assert tokenizer._batches.library == "tiktoken"
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith("encoding with tiktoken: " + message)
    assert caplog.records[0].levelname == ("INFO" if rule is ImportError else "WARNING")


def test_a_library_that_agrees_is_used(tokenizer, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    put_in_place(monkeypatch, tokenizer, lambda text: False)
    tokenizer.encode_batch(BATCH)
    assert tokenizer._batches.library == "fastokens"
    assert "encoding with fastokens 1.0: ids proven on" in caplog.messages[0]


def test_a_library_caught_later_stops_the_work(tokenizer, monkeypatch):
    put_in_place(monkeypatch, tokenizer, lambda text: text == "a rare text")
    tokenizer.encode_batch(BATCH)
    with pytest.raises(
        DataError, match="fastokens returned different ids from tiktoken on 'a rare text'"
    ) as e:
        tokenizer.encode_batch(["a rare text"])
    assert "LADDERLM_ENCODER=tiktoken" in e.value.fix


def test_a_library_that_panics_later_is_left(tokenizer, monkeypatch, caplog):
    class PanicError(BaseException):
        pass

    def rule(text):
        if text == "boom":
            raise PanicError("rust")
        return False

    put_in_place(monkeypatch, tokenizer, rule)
    tokenizer.encode_batch(BATCH)
    assert as_lists(tokenizer.encode_batch(["a", "boom"])) == plain(tokenizer, ["a", "boom"])
    assert "encoding with tiktoken from here on: fastokens failed: rust" in caplog.messages
    assert as_lists(tokenizer.encode_batch(["a"])) == plain(tokenizer, ["a"])


def test_a_keyboard_interrupt_is_no_failure_of_a_library(tokenizer, monkeypatch):
    def rule(text):
        raise KeyboardInterrupt

    put_in_place(monkeypatch, tokenizer, rule)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_batch(BATCH)


def test_a_lone_surrogate_in_a_batch_is_refused(tokenizer):
    with pytest.raises(DataError, match="lone surrogate"):
        tokenizer.encode_batch([*BATCH, "\ud800"])


def test_threads_get_the_ids_of_one_thread(tokenizer):
    """The library is chosen once, however many begin together."""
    expected = plain(tokenizer, BATCH)
    gate, results = threading.Barrier(4), {}

    def work(number):
        gate.wait()
        results[number] = [as_lists(tokenizer.encode_batch(BATCH)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(rows == expected for n in range(4) for rows in results[n])


def test_the_noted_versions_have_no_disputed_character(installed):
    assert fast.disputed_characters(fast.load_fastokens) == []


def test_a_character_of_another_class_is_found():
    """By a library that cuts before one letter as if it were none."""

    def load(spelling):
        merges = {bytes([byte]): byte for byte in range(256)}
        tokens = [first + bytes([b]) for first in (b"a", b"1", b"!") for b in range(0xC2, 0xF5)]
        probe = BytePairTokenizer(merges | {token: 256 + i for i, token in enumerate(tokens)})
        odd = chr(0x1D7CA)

        def encode(texts):
            return [
                np.array([*probe.encode(text), *[0] * (odd in text)], np.uint32) for text in texts
            ]

        return encode

    assert fast.disputed_characters(load) == [chr(0x1D7CA)]
