"""Dialogues as token ids, in the formats of LLaMA 2 and LLaMA 3 and as a plain transcript.

Owns the formats and the checks of a dialogue. Generating the answer is the caller's business.
Sources: facebookresearch/llama and meta-llama/llama3, chat_completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from ladderlm.errors import ConfigError
from ladderlm.tokenizer.base import Tokenizer
from ladderlm.tokenizer.bpe import BytePairTokenizer

__all__ = [
    "FORMATS",
    "UNSAFE_ANSWER",
    "ChatPrompt",
    "Dialog",
    "Message",
    "Role",
    "encode_dialog",
    "pick_format",
]

Role = Literal["system", "user", "assistant"]
FORMATS = ("llama2", "llama3", "plain")
UNSAFE_ANSWER = "Error: special tags are not allowed as part of the prompt."

_INST, _END_INST = "[INST]", "[/INST]"
_SYS, _END_SYS = "<<SYS>>", "<</SYS>>"
_HEADER, _END_HEADER, _END_TURN = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"


class Message(TypedDict):
    """One turn of a dialogue."""

    role: Role
    content: str


Dialog = Sequence[Message]


@dataclass(frozen=True)
class ChatPrompt:
    """A dialogue ready to be answered.

    Args:
        tokens: ids up to where the answer begins.
        stop_ids: ids that end the answer.
        stop: strings that end it.
        unsafe: a message holds tags of the format; `UNSAFE_ANSWER` is the answer.
    """

    tokens: tuple[int, ...]
    stop_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    unsafe: bool = False


def pick_format(tokenizer: Tokenizer) -> str:
    """Guess the format that a model was taught from the tokens that its tokenizer has.

    LLaMA 3's tokenizer has control tokens for headers; Meta's SentencePiece has none, and its
    chat models use LLaMA 2's tags. A tokenizer of our own says nothing of chat: a plain transcript
    is what a model knows from its corpus.
    """
    if _controls(tokenizer).keys() >= {_HEADER, _END_HEADER, _END_TURN}:
        return "llama3"
    return "plain" if isinstance(tokenizer, BytePairTokenizer) else "llama2"


def encode_dialog(tokenizer: Tokenizer, dialog: Dialog, style: str) -> ChatPrompt:
    """Encode a dialogue, whose last message is the user's.

    Args:
        style: one of `FORMATS`.

    Raises:
        ConfigError: an unknown format or role, roles out of turn, or a tokenizer without the
            control tokens of LLaMA 3.
    """
    _check_messages(dialog, style)
    if style == "llama2":
        return _encode_llama2(tokenizer, dialog)
    if style == "llama3":
        return _encode_llama3(tokenizer, dialog)
    return _encode_plain(tokenizer, dialog)


def _check_messages(dialog: Dialog, style: str) -> None:
    if style not in FORMATS:
        raise ConfigError(f"chat format {style!r}", f"it is one of {', '.join(FORMATS)}")
    for i, message in enumerate(dialog):
        role = message.get("role")
        if role not in ("system", "user", "assistant") or "content" not in message:
            raise ConfigError(
                f"message {i} has role {role!r}",
                "a message has a content, and its role is system, user or assistant",
            )
    if not dialog or dialog[-1]["role"] != "user":
        last = f"is from {dialog[-1]['role']}" if dialog else "does not exist"
        raise ConfigError(
            f"the last message {last}",
            "the model answers the user",
            "end the dialogue with a message of role user",
        )
    if style == "llama3":  # its format has a header for every turn, so any order can be said
        return
    turns = dialog[1:] if dialog[0]["role"] == "system" else dialog
    for i, message in enumerate(turns):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise ConfigError(
                f"turn {i + 1} is from {message['role']}, not from {expected}",
                "user and assistant alternate, beginning with the user; one system message may "
                "stand before them",
                "put the messages in that order, or join two of one role",
            )


def _encode_llama2(tokenizer: Tokenizer, dialog: Dialog) -> ChatPrompt:
    """Each finished pair is BOS ... EOS, the last turn BOS ... alone."""
    tags = (_INST, _END_INST, _SYS, _END_SYS)
    unsafe = any(tag in message["content"] for tag in tags for message in dialog)
    contents = [message["content"] for message in dialog]
    if dialog[0]["role"] == "system":
        contents[:2] = [f"{_SYS}\n{contents[0]}\n{_END_SYS}\n\n{contents[1]}"]
    ids: list[int] = []
    for asked, answered in zip(contents[:-1:2], contents[1::2], strict=True):
        pair = f"{_INST} {asked.strip()} {_END_INST} {answered.strip()} "
        ids += tokenizer.encode(pair, bos=True, eos=True)
    ids += tokenizer.encode(f"{_INST} {contents[-1].strip()} {_END_INST}", bos=True)
    return ChatPrompt(tuple(ids), frozenset({tokenizer.eos_id}), unsafe=unsafe)


def _encode_llama3(tokenizer: Tokenizer, dialog: Dialog) -> ChatPrompt:
    """A header, a blank line, the content and an end of turn; the answer's header stands open.

    Text never yields a control id, so a tag in a message is plain text and does no harm.
    """
    controls = _controls(tokenizer)
    missing = [name for name in (_HEADER, _END_HEADER, _END_TURN) if name not in controls]
    if missing:
        raise ConfigError(
            f"the tokenizer has no {', '.join(missing)}",
            "turns of LLaMA 3's format stand between them",
            "choose the format llama2 or plain",
        )

    def header(role: str) -> list[int]:
        name = tokenizer.encode(role)
        return [controls[_HEADER], *name, controls[_END_HEADER], *tokenizer.encode("\n\n")]

    ids = [tokenizer.bos_id]
    for message in dialog:
        ids += [*header(message["role"]), *tokenizer.encode(message["content"].strip())]
        ids.append(controls[_END_TURN])
    stop_ids = frozenset({tokenizer.eos_id, controls[_END_TURN]})
    return ChatPrompt(tuple(ids + header("assistant")), stop_ids)


def _encode_plain(tokenizer: Tokenizer, dialog: Dialog) -> ChatPrompt:
    """A transcript, for models that were never taught a format of chat."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    lines = [names.get(message["role"], "") + message["content"].strip() for message in dialog]
    text = "\n\n".join([*lines, "Assistant:"])
    stop_ids = frozenset({tokenizer.bos_id, tokenizer.eos_id})
    return ChatPrompt(tuple(tokenizer.encode(text, bos=True)), stop_ids, ("\n\nUser:",))


def _controls(tokenizer: Tokenizer) -> dict[str, int]:
    """Give ids of control tokens by name, as far as the tokenizer names them."""
    return dict(getattr(tokenizer, "controls", {}))
