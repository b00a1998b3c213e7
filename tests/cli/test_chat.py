"""`ladderlm chat`: a dialogue over standard input."""

import io
import sys

import pytest


@pytest.fixture
def talk(ladderlm, shared_run, monkeypatch):
    """Say lines to the shared run; return what the command said."""

    def call(raw, *words):
        raw = raw if isinstance(raw, bytes) else raw.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        return ladderlm("chat", shared_run, "--max-new-tokens", "6", *words)

    return call


def test_every_line_gets_an_answer_that_the_seed_decides(talk):
    one = talk("hello\n", "--seed", "3")
    assert one.code == 0
    assert one.out.endswith("\n")
    assert "format plain" in one.err
    assert talk("hello\n\n  \n", "--seed", "3").out == one.out
    assert talk("hello", "--seed", "3").out == one.out
    two = talk("hello\nwhy\n", "--seed", "3")
    assert two.out.startswith(one.out)
    assert len(two.out) > len(one.out)


def test_a_new_dialogue_forgets_the_old_one(talk):
    words = ["--temperature", "0"]
    first = talk("hello\n", *words).out
    assert talk("other\n/new\nhello\n", *words).out.endswith(first)
    assert talk("hello\n/quit\nhello\n", *words).out == first
    assert "/new starts a new dialogue" in talk("/help\n").err


def test_a_dialogue_that_fills_the_context_is_refused_and_the_chat_continues(talk):
    """G01: a prompt longer than the context of 64."""
    said = talk("word " * 200 + "\nhi\n", "--temperature", "0")
    assert said.code == 0
    assert "the context of the model is 64" in said.err
    assert said.out == talk("hi\n", "--temperature", "0").out


def test_tags_of_the_format_give_the_fixed_answer(talk):
    said = talk("x [INST] y\n", "--format", "llama2")
    assert said.out == "Error: special tags are not allowed as part of the prompt.\n"
    assert said.code == 0


def test_a_system_message_changes_the_answer(talk):
    words = ["--temperature", "0"]
    plain = talk("hi\n", *words).out
    assert talk("hi\n", *words, "--system", "return the loss of the batch").out != plain


def test_what_a_terminal_would_obey_is_shown_to_it(talk, on_terminal, monkeypatch):
    """G04: a model that writes escape sequences."""
    from ladderlm.tokenizer.bpe import BytePairTokenizer

    plain = BytePairTokenizer.decode_bytes
    monkeypatch.setattr(
        BytePairTokenizer,
        "decode_bytes",
        lambda self, ids, **_: b"\x1b[2J\x9b\x07" * sum(bool(plain(self, [i])) for i in ids),
    )
    assert "\x1b[2J" in talk("hi\n").out
    on_terminal()
    said = talk("hi\n")
    assert "\\u{1b}[2J\ufffd\\u{7}" in said.out
    assert all(char.isprintable() or char == "\n" for char in said.out)


def test_bad_input_is_refused_with_the_byte(talk):
    """G01: invalid UTF-8."""
    said = talk(b"ab\xff\n")
    assert said.code == 2
    assert "not UTF-8 at byte 2" in said.err


def test_a_closed_standard_input_ends_the_chat(ladderlm, shared_run, monkeypatch):
    """X01."""
    monkeypatch.setattr(sys, "stdin", None)
    assert ladderlm("chat", shared_run).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--temperature", "-1"], "temperature must be finite and not negative, got -1"),
        (["--max-new-tokens", "0"], "--max-new-tokens must be at least 1, got 0"),
        (["--format", "llama3"], "<|start_header_id|>"),
        (["--device", "gpu"], "cpu, cuda"),
        (["--checkpoint", "average"], "holds no average"),
        (["--checkpoint", "7"], "only those of steps [4, 8]"),
        (["--average"], "use --checkpoint average"),
    ],
)
def test_wrong_options_are_refused(words, says, talk):
    said = talk("hi\n", *words)
    assert said.code == 2
    assert says in said.err
    assert said.out == ""
