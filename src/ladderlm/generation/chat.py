"""Dialogues as token ids, in the formats of LLaMA 2 and LLaMA 3 and as a plain transcript.

Owns the formats and the checks of a dialogue; the caller generates the answer.
Sources: facebookresearch/llama and meta-llama/llama3, chat_completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from ladderlm.config import require
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
    """A dialogue ready to be answered."""

    tokens: tuple[int, ...]  # up to where the answer begins
    stop_ids: frozenset[int]  # ids that end the answer
    stop: tuple[str, ...] = ()  # strings that end it
    unsafe: bool = False  # a message contains tags of the format: answer with UNSAFE_ANSWER


def pick_format(tokenizer: Tokenizer) -> str:
    """Guess a model's chat format from its tokenizer.

    LLaMA 3's tokenizer has control tokens for headers. Meta's SentencePiece has none, and its
    chat models use LLaMA 2's tags. A model with a tokenizer of ours was trained on no chat
    format, so it gets a plain transcript.
    """
    if _controls(tokenizer).keys() >= {_HEADER, _END_HEADER, _END_TURN}:
        return "llama3"
    return "plain" if isinstance(tokenizer, BytePairTokenizer) else "llama2"


def encode_dialog(tokenizer: Tokenizer, dialog: Dialog, style: str) -> ChatPrompt:
    """Encode a dialogue, whose last message is the user's, in one of `FORMATS`.

    Raises:
        ConfigError: the format or a role is unknown, the roles are out of order, or the tokenizer
            lacks the control tokens of LLaMA 3.
    """
    require("the chat format", repr(style), style in FORMATS, f"be one of {', '.join(FORMATS)}")
    _check_messages(dialog, style)
    encode = {"llama2": _encode_llama2, "llama3": _encode_llama3, "plain": _encode_plain}[style]
    return encode(tokenizer, dialog)


def _check_messages(dialog: Dialog, style: str) -> None:
    for i, message in enumerate(dialog):
        role = message.get("role")
        if role not in ("system", "user", "assistant") or "content" not in message:
            rule = "have a content and the role system, user or assistant"
            raise ConfigError(f"message {i} must {rule}, got role {role!r}")
    if not dialog or dialog[-1]["role"] != "user":
        last = f"is from {dialog[-1]['role']}" if dialog else "does not exist"
        fix = "end the dialogue with a message of role user"
        raise ConfigError(f"the last message {last}", fix=fix)
    if style == "llama3":  # every turn has a header, so any order can be written
        return
    turns = dialog[1:] if dialog[0]["role"] == "system" else dialog
    for i, message in enumerate(turns):
        expected = "assistant" if i % 2 else "user"
        if message["role"] != expected:
            raise ConfigError(
                f"turn {i + 1} must be from {expected}, got {message['role']}",
                fix="let user and assistant alternate, beginning with the user after at most one "
                "system message; join consecutive messages of one role",
            )


def _encode_llama2(tokenizer: Tokenizer, dialog: Dialog) -> ChatPrompt:
    """Write each question with its answer as BOS ... EOS, and the last question as BOS ..."""
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
    """Write each turn as header, blank line, content and end of turn, then the answer's header.

    Text never encodes to a control id, so a tag in a message is harmless plain text.
    """
    controls = _controls(tokenizer)
    missing = [name for name in (_HEADER, _END_HEADER, _END_TURN) if name not in controls]
    if missing:
        raise ConfigError(
            f"the tokenizer has no {', '.join(missing)}, which the format llama3 needs",
            fix="choose the format llama2 or plain",
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
    """Write a transcript, for models that were not trained on a chat format."""
    names = {"user": "User: ", "assistant": "Assistant: "}
    lines = [names.get(message["role"], "") + message["content"].strip() for message in dialog]
    text = "\n\n".join([*lines, "Assistant:"])
    stop_ids = frozenset({tokenizer.bos_id, tokenizer.eos_id})
    return ChatPrompt(tuple(tokenizer.encode(text, bos=True)), stop_ids, ("\n\nUser:",))


def _controls(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the ids of the control tokens that the tokenizer names."""
    return dict(getattr(tokenizer, "controls", {}))
