"""Fast encoders: the ids of tiktoken or none, whatever is installed and whoever calls."""

import importlib
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


def installed(name):
    try:
        importlib.import_module(name)
    except ImportError:
        pytest.skip(f"[fast] {name} is not installed")


def utf8(texts):
    return [text.encode() for text in texts]


def plain(tokenizer, texts):
    return [tokenizer.encode(text) for text in texts]


def as_lists(rows):
    assert {row.dtype.name for row in rows} <= {"uint32"}
    return [row.tolist() for row in rows]


@pytest.fixture(scope="module", params=list(fast.ENCODERS))
def encoder(request, tiny_tokenizer):
    """A fast library with the tiny vocabulary."""
    installed(request.param)
    return fast.ENCODERS[request.param](tokenizer_json(tiny_tokenizer.ranks, controls={}))


@given(
    texts=st.lists(
        st.text() | st.sampled_from(NASTY_TEXTS) | st.text(" \t\n\r'sxé!1", max_size=40), max_size=8
    )
)
def test_a_fast_library_gives_the_ids_of_tiktoken_and_the_reference(encoder, tiny_tokenizer, texts):
    """D10: control words in a text are plain text there too."""
    expected = plain(tiny_tokenizer, texts)
    assert as_lists(encoder(texts, utf8(texts))) == expected


@given(text=st.text(ASSIGNED) | st.text(" \t\n\r'sxé!1", max_size=40))
def test_a_fast_library_gives_the_ids_of_the_reference(encoder, tiny_tokenizer, text):
    assert encoder([text], utf8([text]))[0].tolist() == encode_reference(text, tiny_tokenizer.ranks)


@pytest.mark.parametrize("name", fast.ENCODERS)
def test_newer_letters_of_one_library_s_unicode_change_no_id(tokenizer, monkeypatch, name):
    """Every character behind a letter, a digit and a mark: the ids are tiktoken's."""
    installed(name)
    monkeypatch.setenv("LADDERLM_ENCODER", name)
    monkeypatch.setattr(fast, "SPOT", 0)  # the rule itself, not the check of it
    spelt = [bytes([byte]) for byte in range(256)]
    spelt += [first + bytes([byte]) for first in (b"a", b"1", b"!") for byte in range(0xC2, 0xF5)]
    probe = BytePairTokenizer({token: rank for rank, token in enumerate(spelt)})
    codes = [*range(0xA0, 0xD800, 37), *range(0xE000, 0x1D000, 23), *range(0x1D000, 0x110000, 401)]
    texts = [f"a{chr(c)} 1{chr(c)} !{chr(c)}\n" for c in [*codes, 0x18D1D, 0x32ABB, 0x1CB7F]]
    assert as_lists(probe.encode_batch([*texts, "x" * fast.SMALL]))[:-1] == plain(probe, texts)
    assert probe._batches.library == name


@pytest.mark.parametrize("name", [*fast.ENCODERS, "tiktoken"])
def test_the_library_named_by_the_environment_is_used_and_said(
    tokenizer, monkeypatch, caplog, name
):
    installed(name)
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("LADDERLM_ENCODER", name)
    assert as_lists(tokenizer.encode_batch(BATCH)) == plain(tokenizer, BATCH)
    assert tokenizer._batches.library == name
    assert as_lists(tokenizer.encode_batch(TEXTS)) == plain(tokenizer, TEXTS)
    assert [line for line in caplog.messages if f"encoding with {name}" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_an_unknown_library_is_refused_with_the_known(tokenizer, monkeypatch):
    monkeypatch.setenv("LADDERLM_ENCODER", "slowtoken")
    with pytest.raises(ConfigError, match="slowtoken") as caught:
        tokenizer.encode_batch(BATCH)
    assert "fastokens, gigatoken, tiktoken" in caught.value.fix


def test_small_batches_choose_nothing(tokenizer):
    assert as_lists(tokenizer.encode_batch(["ab", ""])) == plain(tokenizer, ["ab", ""])
    assert tokenizer._batches.library is None
    assert tokenizer.encode_batch([]) == []


def libraries(monkeypatch, tokenizer, **made):
    """Put made-up libraries in the place of the real ones."""
    honest = tokenizer._encode_text

    def make(wrong):
        def encode(texts, raws):
            assert raws == [text.encode() for text in texts]
            return [np.array(honest(text) + [0] * wrong(text), dtype=np.uint32) for text in texts]

        return lambda spelling: encode

    monkeypatch.delenv("LADDERLM_ENCODER", raising=False)
    table = {name: (rule if rule is ImportError else make(rule)) for name, rule in made.items()}

    def missing(spelling):
        raise ImportError

    monkeypatch.setattr(
        fast, "ENCODERS", {n: missing if r is ImportError else r for n, r in table.items()}
    )
    monkeypatch.setattr(fast.importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setattr(fast, "disputed_prefixes", lambda name: ())


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (lambda text: text == NASTY_TEXTS[3], "gives other ids"),
        (lambda text: text == TEXTS[0], "gives other ids"),
        (lambda text: 1 // 0, "failed: integer division"),
        (ImportError, "is not installed"),
    ],
)
def test_a_library_that_differs_or_fails_is_passed_over_with_the_reason(
    tokenizer, monkeypatch, caplog, rule, says
):
    caplog.set_level(logging.INFO)
    libraries(monkeypatch, tokenizer, first=rule, second=ImportError)
    assert as_lists(tokenizer.encode_batch(BATCH)) == plain(tokenizer, BATCH)
    assert tokenizer._batches.library == "tiktoken"
    assert len(caplog.records) == 1
    assert caplog.messages[0].startswith("encoding with tiktoken: first " + says)
    assert caplog.messages[0].endswith("; second is not installed")
    assert caplog.records[0].levelname == ("INFO" if rule is ImportError else "WARNING")


def test_the_next_library_is_tried(tokenizer, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    libraries(monkeypatch, tokenizer, first=lambda text: True, second=lambda text: False)
    tokenizer.encode_batch(BATCH)
    assert tokenizer._batches.library == "second"
    assert "encoding with second 1.0: ids proven on" in caplog.messages[0]


def test_a_library_caught_later_stops_the_work(tokenizer, monkeypatch):
    libraries(monkeypatch, tokenizer, first=lambda text: text == "a rare text")
    tokenizer.encode_batch(BATCH)
    with pytest.raises(DataError, match="first gave other ids than tiktoken on 'a rare text'") as e:
        tokenizer.encode_batch(["a rare text"])
    assert "LADDERLM_ENCODER=tiktoken" in e.value.fix


def test_a_library_that_panics_later_is_left(tokenizer, monkeypatch, caplog):
    class PanicError(BaseException):
        pass

    def rule(text):
        if text == "boom":
            raise PanicError("rust")
        return False

    libraries(monkeypatch, tokenizer, first=rule)
    tokenizer.encode_batch(BATCH)
    assert as_lists(tokenizer.encode_batch(["a", "boom"])) == plain(tokenizer, ["a", "boom"])
    assert "encoding with tiktoken from here on: first failed: rust" in caplog.messages
    assert as_lists(tokenizer.encode_batch(["a"])) == plain(tokenizer, ["a"])


def test_a_keyboard_interrupt_is_no_failure_of_a_library(tokenizer, monkeypatch):
    def rule(text):
        raise KeyboardInterrupt

    libraries(monkeypatch, tokenizer, first=rule)
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


@pytest.mark.parametrize("name", list(fast.ENCODERS))
def test_the_noted_disputed_prefixes_are_those_that_trying_gives(name):
    installed(name)
    assert fast.disputed_prefixes(name) == fast.measure_disputed(name)
