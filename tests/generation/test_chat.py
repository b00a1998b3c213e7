"""Dialogues in the formats of LLaMA 2 and 3, and what is refused."""

import pytest

from ladderlm.errors import ConfigError
from ladderlm.generation.chat import UNSAFE_ANSWER, encode_dialog, pick_format
from ladderlm.tokenizer.bpe import BytePairTokenizer

BYTES = BytePairTokenizer({bytes([b]): b for b in range(256)})


class WithHeaders(BytePairTokenizer):
    """Bytes, BOS and EOS, and LLaMA 3's control tokens of chat."""

    def __init__(self):
        super().__init__({bytes([b]): b for b in range(256)})
        names = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        self.controls = {name: 258 + i for i, name in enumerate(names)}
        self.vocab_size = 261


LLAMA3 = WithHeaders()


def dialog_of(*turns, system=None):
    """Make a dialogue of alternating turns."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return messages + [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


def shown(ids, names):
    """Write control ids by name and bytes as text."""
    return "".join(names[i] if i in names else chr(i) for i in ids)


def as_llama2(dialog):
    prompt = encode_dialog(BYTES, dialog, "llama2")
    return shown(prompt.tokens, {256: "<s>", 257: "</s>"})


def test_llama2_puts_each_pair_between_bos_and_eos_and_leaves_the_last_open():
    assert as_llama2(dialog_of("hi")) == "<s>[INST] hi [/INST]"
    expected = "<s>[INST] a [/INST] b </s><s>[INST] c [/INST] d </s><s>[INST] e [/INST]"
    assert as_llama2(dialog_of("a", "b", "c", "d", "e")) == expected


def test_llama2_folds_the_system_message_into_the_first_turn():
    expected = "<s>[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST]"
    assert as_llama2(dialog_of("hi", system="be brief")) == expected
    long = as_llama2(dialog_of("a", "b", "c", system="s"))
    assert long == "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]"


def test_llama2_strips_what_surrounds_a_turn():
    assert as_llama2(dialog_of(" a\n", "\tb ", "c  ")) == (
        "<s>[INST] a [/INST] b </s><s>[INST] c [/INST]"
    )


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_llama2_refuses_its_own_tags_in_any_message(place, tag):
    """The answer is a fixed string, as Meta's code gives it."""
    dialog = dialog_of("a", "b", "c", system="s")
    assert not encode_dialog(BYTES, dialog, "llama2").unsafe
    dialog[place]["content"] = f"x {tag} y"
    assert encode_dialog(BYTES, dialog, "llama2").unsafe
    assert UNSAFE_ANSWER == "Error: special tags are not allowed as part of the prompt."


def test_llama2_stops_at_eos():
    assert encode_dialog(BYTES, dialog_of("a"), "llama2").stop_ids == {257}


def test_llama3_gives_every_message_a_header_and_leaves_that_of_the_answer_open():
    prompt = encode_dialog(LLAMA3, dialog_of(" hi ", "yo", "ok", system="s"), "llama3")
    names = {256: "<bos>", 258: "<(>", 259: "<)>", 260: "<eot>"}
    assert shown(prompt.tokens, names) == (
        "<bos><(>system<)>\n\ns<eot><(>user<)>\n\nhi<eot><(>assistant<)>\n\nyo<eot>"
        "<(>user<)>\n\nok<eot><(>assistant<)>\n\n"
    )
    assert prompt.stop_ids == {257, 260}
    assert not prompt.unsafe


def test_llama3_takes_its_tags_in_a_message_for_plain_text():
    """D10: no control id from text."""
    prompt = encode_dialog(LLAMA3, dialog_of("<|eot_id|><|start_header_id|>"), "llama3")
    controls = [i for i in prompt.tokens if i >= 256]
    assert controls == [256, 258, 259, 260, 258, 259]


def test_llama3_needs_a_tokenizer_with_its_control_tokens():
    with pytest.raises(ConfigError, match=r"no <\|start_header_id\|>"):
        encode_dialog(BYTES, dialog_of("a"), "llama3")


def test_a_plain_transcript_ends_where_the_assistant_speaks():
    prompt = encode_dialog(BYTES, dialog_of("a", "b", "c", system="s"), "plain")
    text = shown(prompt.tokens, {256: "<s>"})
    assert text == "<s>s\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant:"
    assert prompt.stop == ("\n\nUser:",)


@pytest.mark.parametrize("style", ["llama2", "plain"])
@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ([], "does not exist"),
        (["system"], "last message is from system"),
        (["user", "assistant"], "last message is from assistant"),
        (["user", "user"], "turn 2 must be from assistant, got user"),
        (["assistant", "user"], "turn 1 must be from user, got assistant"),
        (["system", "assistant", "user"], "turn 1 must be from user, got assistant"),
        (["user", "system", "user"], "turn 2 must be from assistant, got system"),
        (["system", "system", "user"], "turn 1 must be from user, got system"),
        (["user", "robot", "user"], "system, user or assistant, got role 'robot'"),
    ],
)
def test_roles_out_of_turn_are_refused(style, roles, says):
    with pytest.raises(ConfigError) as caught:
        encode_dialog(BYTES, [{"role": role, "content": "x"} for role in roles], style)
    assert says in str(caught.value)


def test_llama3_too_answers_the_user_only():
    with pytest.raises(ConfigError, match="last message is from assistant"):
        encode_dialog(LLAMA3, dialog_of("a", "b"), "llama3")


def test_a_message_without_content_and_an_unknown_format_are_refused():
    with pytest.raises(ConfigError, match="message 0"):
        encode_dialog(BYTES, [{"role": "user"}], "llama2")
    with pytest.raises(ConfigError, match="llama2, llama3, plain"):
        encode_dialog(BYTES, dialog_of("a"), "llama4")


def test_the_format_follows_from_the_tokenizer():
    assert pick_format(LLAMA3) == "llama3"
    assert pick_format(BYTES) == "plain"
