"""Score any causal language model of transformers.

Owns the opening of a folder without running code from it, the way a foreign tokenizer frames a
document, and the scorer. `eval/` computes the losses.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ladderlm.convert.tensors import read_safetensors
from ladderlm.errors import CheckpointError, ConfigError
from ladderlm.files import read_json
from ladderlm.foreign.hub import model_files

__all__ = ["CausalLM", "Framing", "open_causal_lm", "open_framing"]

LOGITS_AT_ONCE = 1 << 27  # entries: 512 MiB in float32
_TEXTS_AT_ONCE = 64
# Masks and RoPE tables that older versions of transformers saved with the weights.
_BUFFER = re.compile(r"(inv_freq|masked_bias|attn\.bias|attention\.bias)$")


@dataclass(frozen=True)
class Framing:
    """The conversion of a text to a document by a foreign tokenizer.

    Args:
        tokenizer: a tokenizer of transformers.
        begins: token before the text: BOS, or EOS if there is no BOS, or none.
        begin_id, end_id: ids of the tokens around a text; None: there is no such token.
    """

    tokenizer: Any
    begins: Literal["bos", "eos", "none"]
    begin_id: int | None
    end_id: int | None

    def encode(
        self, texts: Sequence[str], check: Callable[[], None] = lambda: None
    ) -> list[list[int]]:
        """Return the ids of bare texts; names of control tokens in a text are plain text.

        Args:
            check: called repeatedly; may raise to stop early.
        """
        found: list[list[int]] = []
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        for at in range(0, len(texts), _TEXTS_AT_ONCE):
            check()
            found += self.tokenizer(list(texts[at : at + _TEXTS_AT_ONCE]), **options)["input_ids"]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without clean-up."""
        text: str = self.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def describe(self) -> dict[str, Any]:
        """Return the tokens that begin and end a document."""
        name = self.tokenizer.convert_ids_to_tokens
        return {
            "begins": self.begins,
            "begin_token": None if self.begin_id is None else name(self.begin_id),
            "end_token": None if self.end_id is None else name(self.end_id),
        }


class CausalLM:
    """A scorer with a model of transformers in evaluation mode; the softmax is in float32."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        self.vocab_size = int(config.vocab_size if head is None else head.weight.shape[0])
        # Models without a table of positions have no limit.
        self.max_context = int(getattr(config, "max_position_embeddings", None) or sys.maxsize)

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor) -> Tensor:
        """Return (B, T, V) in the model's dtype."""
        ones = torch.ones_like(
            tokens_BT
        )  # padding is at the end, and no token attends to later ones
        logits: Tensor = self.model(tokens_BT, attention_mask=ones, use_cache=False).logits
        return logits

    def nats(
        self,
        tokens: NDArray[np.int64],
        targets: NDArray[np.int64],
        scored: NDArray[np.bool_],
        segment_ids: NDArray[np.int64] | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Score the chosen targets; see `Scorer.nats`.

        Raises:
            ConfigError: a row holds several windows, which not every model can separate.
        """
        if segment_ids is not None or positions is not None:
            raise ConfigError(
                "--packing packed cannot be used with a model of transformers",
                "not every architecture can separate the texts of a row",
                "leave --packing out",
            )
        device = self.model.device
        n = max(1, LOGITS_AT_ONCE // (tokens.shape[1] * self.vocab_size))
        found = [np.empty(0)]
        for at in range(0, len(tokens), n):
            part = slice(at, at + n)
            tokens_BT, targets_BT, scored_BT = (
                torch.from_numpy(array[part]).to(device) for array in (tokens, targets, scored)
            )
            logits_NV = self.logits(tokens_BT)[scored_BT].float()  # bfloat16 loses the sum's tail
            own_N = logits_NV.gather(-1, targets_BT[scored_BT].unsqueeze(-1)).squeeze(-1)
            nats_N = logits_NV.logsumexp(-1) - own_N
            found.append(nats_N.double().cpu().numpy())
        return np.concatenate(found)


def open_causal_lm(folder: Path, device: str = "cpu") -> CausalLM:
    """Open a folder's model in float32, without running code from it.

    Raises:
        CheckpointError: the folder has no safetensors, is damaged or unsafe, lacks weights, or
            holds an unknown architecture or a model that is not causal.
        ConfigError: transformers is not installed.
    """
    transformers = _transformers()
    _check_size(folder, transformers)
    try:
        model, notes = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # the code of an architecture may raise anything
        raise _cannot_open(folder, error) from error
    lost = sorted([*notes["missing_keys"], *map(str, notes["mismatched_keys"])])
    idle = sorted(name for name in notes["unexpected_keys"] if not _BUFFER.search(name))
    if lost or idle:
        parts = [f"lacks {', '.join(lost[:5])}"] if lost else []
        parts += [f"holds {', '.join(idle[:5])}, for which it has no place"] if idle else []
        raise CheckpointError(
            f"{folder} is not the model of its config.json: it {' and '.join(parts)}",
            "a missing weight would keep a random value, and an unused one may be a part of the "
            "model",
            "download config.json and weights again from one place",
        )
    scorer = CausalLM(model.float().to(device).eval())
    _check_causal(scorer, folder)
    return scorer


def open_framing(folder: Path) -> Framing:
    """Open a folder's tokenizer, and choose the tokens that begin and end a document.

    Raises:
        CheckpointError: transformers cannot open a tokenizer without running foreign code.
        ConfigError: transformers is not installed.
    """
    transformers = _transformers()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise _cannot_open(folder, error) from error
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None:
        return Framing(tokenizer, "bos", bos, eos)
    return Framing(tokenizer, "none" if eos is None else "eos", eos, eos)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "this model needs transformers, which is not installed",
            fix="run `pip install 'ladderlm[interop]'`",
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _cannot_open(folder: Path, error: Exception) -> CheckpointError:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return CheckpointError(
        f"transformers cannot open {folder}: {said[:300]}",
        "code in the folder is never run, and only causal language models are scored",
        "check that the folder is complete, and that your transformers knows its architecture",
    )


def _check_size(folder: Path, transformers: Any) -> None:
    """Check that the files can hold the weights of the config, before anything is allocated."""
    files = [path for path in model_files(folder) if path.suffix == ".safetensors"]
    shapes = [entry.shape for path in files for entry in read_safetensors(path).values()]
    n_stored = sum(int(np.prod(shape, dtype=object)) for shape in shapes)
    values = read_json(folder / "config.json")
    try:
        n_layers = max(values.get(key) or 0 for key in ("num_hidden_layers", "n_layer"))
        if n_layers > len(shapes):
            raise ValueError(f"{n_layers:,} layers out of {len(shapes):,} tensors")
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise _cannot_open(folder, error) from error
    n_params = sum(parameter.numel() for parameter in model.parameters())
    if n_params > n_stored:
        raise CheckpointError(
            f"{folder / 'config.json'} describes {n_params:,} parameters, {4 * n_params:,} bytes "
            f"in float32; its files hold {n_stored:,} numbers",
            "the config does not belong to these weights, or is made to exhaust memory",
            "download both again from one place",
        )


def _check_causal(scorer: CausalLM, folder: Path) -> None:
    """Check that changing the last token of a row changes no earlier logit."""
    n = min(16, scorer.max_context)
    row = torch.arange(n, device=scorer.model.device) % scorer.vocab_size
    other = row.clone()
    other[-1] = (other[-1] + scorer.vocab_size // 2) % scorer.vocab_size
    one, two = (scorer.logits(x.unsqueeze(0))[:, :-1] for x in (row, other))
    if float((one - two).abs().max()) > 1e-3 * float(one.abs().max()):
        raise CheckpointError(
            f"{folder}: the model's prediction of a token depends on tokens after it",
            "its bits per byte would have no meaning",
            "score causal language models only",
        )
