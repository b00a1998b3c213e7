"""LLaMA 3's rank files (`tokenizer.model` in tiktoken's form).

Owns the reading of lines `<base64 of the bytes> <rank>` and Meta's 256 control tokens, which
follow the ranks. A text is encoded as a whole, whereas Meta's code cuts texts of more than 400,000
characters and runs of more than 25,000 before it encodes them.
"""

import base64
import hashlib

from ladderlm.config import content_hash
from ladderlm.errors import DataError
from ladderlm.tokenizer.base import BOS, EOS, TIKTOKEN
from ladderlm.tokenizer.bpe import BytePairTokenizer

__all__ = ["load_tiktoken", "looks_like_tiktoken"]


def _control_names() -> list[str]:
    """Return Meta's names of the 256 ids after the ranks. Source: meta-llama/llama3."""
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(251)]
    names = [BOS, EOS, *reserved[:4], "<|start_header_id|>", "<|end_header_id|>"]
    return [*names, reserved[4], "<|eot_id|>", *reserved[5:]]


def looks_like_tiktoken(data: bytes) -> bool:
    """Return whether the first line is a token in base64 and a number."""
    try:
        token, rank = data[:1000].split(b"\n")[0].split(b" ")
        return bool(base64.b64decode(token, validate=True)) and rank.strip().isdigit()
    except ValueError:
        return False


def load_tiktoken(data: bytes, name: str) -> BytePairTokenizer:
    """Read a rank file.

    Args:
        name: of the file, for messages.

    Raises:
        DataError: an invalid line, a byte without a token, or ranks that are not 0 .. n - 1.
    """
    fix = "download it again, or compare its checksum with the published one"
    ranks: dict[bytes, int] = {}
    lines = [(i, line) for i, line in enumerate(data.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        try:
            token, rank = line.split(b" ")
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            what = f"{name}:{number}: a line must be a token in base64 and its rank, got "
            raise DataError(f"{what}{line[:60]!r} ({error})", fix=fix) from error
    complete = sorted(ranks.values()) == list(range(len(lines))) and len(ranks) == len(lines)
    if not complete or any(bytes([byte]) not in ranks for byte in range(256)):
        raise DataError(
            f"{name} is not a complete rank file: ranks must be 0 .. n - 1, each once, and every "
            "byte must be a token",
            fix=fix,
        )
    controls = {control: len(ranks) + i for i, control in enumerate(_control_names())}
    fingerprint = content_hash([TIKTOKEN, hashlib.sha256(data).hexdigest()])
    return BytePairTokenizer(ranks, controls=controls, fingerprint=fingerprint)
