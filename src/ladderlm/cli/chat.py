"""`ladderlm chat`: chat with a model in the terminal."""

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ladderlm.cli.generate import DrawingOptions, say
from ladderlm.cli.options import parse
from ladderlm.errors import DataError
from ladderlm.machine import find_device

if TYPE_CHECKING:
    from ladderlm.generation.chat import Message
    from ladderlm.run.open import LoadedRun

__all__ = ["run"]

_COMMANDS = "/new starts a new dialogue, /quit or end of input leaves, /help shows this"


@dataclass(frozen=True, kw_only=True)
class ChatOptions(DrawingOptions):
    """Chat with a model. Every answer is printed while it is generated."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of the run."""
    system: str = ""
    """System message at the start of the dialogue. Default: none."""
    format: Literal["auto", "llama2", "llama3", "plain"] = "auto"
    """How turns of the dialogue are written. auto: llama3 or llama2 if the model's tokenizer has
    its control tokens, otherwise plain. llama2, llama3: Meta's formats. plain: lines of text."""


def run(argv: list[str]) -> int:
    """Chat until the input ends."""
    options = parse(ChatOptions, argv, "chat", f"Chat with a model. {_COMMANDS}.")
    device = find_device(options.device)

    from ladderlm.generation.chat import pick_format
    from ladderlm.run.open import load

    loaded = load(options.run, options.checkpoint, device)
    if options.format == "auto":
        options = replace(options, format=pick_format(loaded.tokenizer))  # type: ignore[arg-type]
    _note(f"format {options.format}; {_COMMANDS}")
    if options.format == "plain":
        _note("the model was not trained to chat: it continues a transcript")
    _chat(options, loaded)
    return 0


def _chat(options: ChatOptions, loaded: "LoadedRun") -> None:
    opening: list[Message] = []
    if options.system:
        opening = [{"role": "system", "content": options.system}]
    dialog, n_answers = opening, 0
    while (line := _read_line()) is not None:
        match line.strip():
            case "":
                pass
            case "/quit" | "/exit":
                break
            case "/help":
                _note(_COMMANDS)
            case "/new":
                dialog = opening
                _note("a new dialogue")
            case _:
                asked: list[Message] = [*dialog, {"role": "user", "content": line}]
                answer = _answer(options, loaded, asked, n_answers)
                n_answers += 1
                if answer is not None:
                    dialog = [*asked, {"role": "assistant", "content": answer}]


def _answer(
    options: ChatOptions, loaded: "LoadedRun", dialog: "list[Message]", n_answers: int
) -> str | None:
    """Print the answer; return it, or None if the question was refused."""
    from ladderlm.generation.chat import UNSAFE_ANSWER, encode_dialog
    from ladderlm.run.open import answer

    prompt = encode_dialog(loaded.tokenizer, dialog, options.format)
    if prompt.unsafe:
        print(UNSAFE_ANSWER)
        return None
    context = loaded.config.model.max_seq_len
    if len(prompt.tokens) >= context:
        _note(
            f"the dialogue has {len(prompt.tokens)} tokens and the context of the model is "
            f"{context}: write less, or start a new dialogue with /new"
        )
        return None
    shown = _Shown()
    try:
        made = answer(
            loaded,
            prompt,
            options.max_new_tokens,
            replace(options, seed=options.seed + n_answers),
            shown.show,
            options.precision(),
            options.compile,
        )
    except KeyboardInterrupt:  # stop this answer, not the chat
        print()
        _note("stopped; what was written stays in the dialogue")
        return shown.text.strip()
    print()
    return made.text.strip()


class _Shown:
    """Text of an answer so far, printed piece by piece without the leading spaces of a format."""

    def __init__(self) -> None:
        self.text = ""

    def show(self, piece: str) -> None:
        piece = piece if self.text else piece.lstrip()
        self.text += piece
        say(piece)


def _read_line() -> str | None:
    """Return the next line of the user; None at the end of the input.

    Raises:
        DataError: the line is not UTF-8.
    """
    if sys.stdin is None:
        return None
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            return input("> ")  # with the line editing of the terminal
        except EOFError:
            print()
            return None
    raw = sys.stdin.buffer.readline()
    try:
        return raw.decode("utf-8").rstrip("\r\n") if raw else None
    except UnicodeDecodeError as error:
        raise DataError(
            f"the input is not UTF-8 at byte {error.start} of the line", fix="convert it to UTF-8"
        ) from error


def _note(text: str) -> None:
    """Print a note on standard error, apart from the text of the chat."""
    print(f"[{text}]", file=sys.stderr, flush=True)
