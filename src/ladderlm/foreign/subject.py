"""Foreign models as subjects of evaluation.

Owns the scoring of texts under a foreign tokenizer, the count of texts that the tokenizer changes,
and the place of the stored result. `eval.evaluate` runs the evaluation, `causal_lm.py` the model.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.config import content_hash
from ladderlm.errors import ConfigError
from ladderlm.eval.config import Policy
from ladderlm.eval.evaluate import Material
from ladderlm.eval.meter import DEFAULT_SCORING, Scoring, meter_documents
from ladderlm.eval.scorer import Scorer, precision_of
from ladderlm.eval.subsets import DocumentLosses
from ladderlm.eval.texts import Texts, encode_texts
from ladderlm.files import read_json, sha256_file
from ladderlm.foreign.causal_lm import Framing, open_causal_lm, open_framing
from ladderlm.foreign.hub import ForeignModel, model_files
from ladderlm.run.subject import exact_matmul

__all__ = ["ForeignSubject", "score_texts"]

LONGEST_DEFAULT = 2048  # tokens; a longer context must be asked for


@dataclass(frozen=True)
class ForeignSubject:
    """A foreign model, scored on raw texts; see `eval.evaluate.Subject`.

    Args:
        evals: folder of evaluations, outside the folder of the model.

    Raises:
        ConfigError: `evals` is in the folder of the model.
    """

    model: ForeignModel
    evals: Path
    step = None
    notes = ("precision", "foreign", "text")

    def __post_init__(self) -> None:
        model = self.model
        own = model.folder if model.commit is None else model.folder.parent.parent
        if self.evals.resolve().is_relative_to(own.resolve()):
            raise ConfigError(
                f"--out {self.evals} is in the folder of the model",
                "ladderlm never writes to a model's folder or to the hub's cache",
                "name another folder",
            )

    @property
    def name(self) -> str:
        """Name of the model on the command line."""
        return self.model.name

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the hashes of its files."""
        return content_hash({p.name: sha256_file(p) for p in model_files(self.model.folder)})

    @property
    def default_context(self) -> int:
        """The context of the model, but at most `LONGEST_DEFAULT` tokens."""
        return min(self.max_context, LONGEST_DEFAULT)

    @cached_property
    def max_context(self) -> int:
        """The largest context that its config allows; 2^40 if it states none."""
        values = read_json(self.model.folder / "config.json")
        tables = [values, values.get("text_config")]
        names = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
        stated = [table.get(name) for table in tables if isinstance(table, dict) for name in names]
        return next((number for number in stated if type(number) is int), 2**40)

    def score(
        self, material: Material, policy: Policy, device: str, how: Scoring
    ) -> tuple[DocumentLosses, dict[str, Any]]:
        """Score the texts, and describe model, precision and tokenizer."""
        texts = material.what
        assert isinstance(texts, Texts)  # prepared data holds the tokens of another tokenizer
        framing = open_framing(self.model.folder)
        scorer = open_causal_lm(self.model.folder, device)
        with exact_matmul(device):
            losses, text = score_texts(scorer, framing, texts, policy, how)
        from transformers import __version__ as version

        architectures = scorer.model.config.architectures or [type(scorer.model).__name__]
        foreign = {
            "architecture": architectures[0],
            "commit": self.model.commit,
            "transformers": version,
            "n_params": {"total": scorer.n_params},
        }
        precision = precision_of(scorer.model)
        return losses, {"precision": precision, "foreign": foreign, "text": text}

    def training(self, noted: dict[str, Any]) -> dict[str, Any]:
        """Return the size of the model; its training cost is unknown."""
        return {"run_id": None, "n_params": noted["foreign"]["n_params"], "flops": None}


def score_texts(
    scorer: Scorer,
    framing: Framing,
    texts: Texts,
    policy: Policy,
    how: Scoring = DEFAULT_SCORING,
) -> tuple[DocumentLosses, dict[str, Any]]:
    """Score every token of every text once; arguments as in `meter_documents`.

    Without a BOS, the EOS comes before a text. Without either, the first token has a loss of ln V,
    that of a uniform guess among V tokens, so that no byte is free.

    Returns:
        The losses, and a description of the framing with the count of texts that the tokenizer
        changes (decoding does not restore them). The bits per byte of such a text are the loss of
        the changed text divided by the bytes of the raw one.
    """
    bare = framing.encode(texts.texts, how.watch.check)
    before = [] if framing.begin_id is None else [framing.begin_id]
    after = [] if framing.end_id is None else [framing.end_id]
    documents = [[*before, *ids, *after] for ids in bare]
    encoded = encode_texts(texts, documents)
    losses = meter_documents(scorer, encoded, np.arange(len(documents)), policy, how)
    n_tokens = np.array([len(ids) for ids in bare], dtype=np.int64)
    nats, eos_nats = losses.nats, losses.eos_nats
    if not after:  # the meter counted the last token of the text as the EOS
        nats, eos_nats = nats + eos_nats, np.full(len(nats), math.nan)
    if not before:
        nats = nats + np.where(n_tokens > 0, math.log(scorer.vocab_size), 0.0)
    changed = np.array(
        [framing.decode(ids) != text for ids, text in zip(bare, texts.texts, strict=True)]
    )
    described = framing.describe() | {
        "n_changed_documents": int(changed.sum()),
        "n_changed_bytes": int(losses.n_bytes[changed].sum()),
    }
    losses = replace(
        losses, nats=nats, eos_nats=eos_nats, n_tokens=n_tokens, text_hashes=texts.hashes
    )
    return losses, described
