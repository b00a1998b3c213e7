"""Meta's names: `from ladderlm.compat.llama import Llama, Dialog`. See `interop/llama.py`."""

from ladderlm.interop.llama import (
    ChatPrediction,
    CompletionPrediction,
    Dialog,
    Llama,
    Message,
    ModelArgs,
    Role,
    Tokenizer,
    Transformer,
    sample_top_p,
)

__all__ = [
    "ChatPrediction",
    "CompletionPrediction",
    "Dialog",
    "Llama",
    "Message",
    "ModelArgs",
    "Role",
    "Tokenizer",
    "Transformer",
    "sample_top_p",
]
