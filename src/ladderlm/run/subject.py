"""A run as a subject of evaluation.

Owns the choice of its checkpoint and data, the encoding of raw texts by its tokenizer, and the
proof that tokens of prepared data and raw text agree. The evaluation itself is `eval.evaluate`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ladderlm.checkpoint.choose import ChosenCheckpoint
from ladderlm.data.shards import open_data
from ladderlm.dist import ALONE, Processes
from ladderlm.errors import ConfigError
from ladderlm.eval.config import EvaluationRequest, Policy
from ladderlm.eval.documents import hash_texts, known_texts
from ladderlm.eval.evaluate import Evaluation, Material, evaluate
from ladderlm.eval.meter import Documents, Scoring, score_documents
from ladderlm.eval.scorer import precision_of
from ladderlm.eval.subsets import DocumentLosses
from ladderlm.eval.texts import Texts, encode_texts, read_texts
from ladderlm.model.precision import float32_matmul
from ladderlm.run.directory import RunDirectory
from ladderlm.run.open import open_chosen
from ladderlm.run.settle import probe_matmul
from ladderlm.run.summary import describe_run
from ladderlm.tokenizer.load import load_tokenizer
from ladderlm.training.config import ExecutionConfig
from ladderlm.training.run_config import RunConfig
from ladderlm.watch import UNWATCHED, Watch

__all__ = ["RunSubject", "data_of", "evaluate_run", "exact_matmul", "open_material"]


def evaluate_run(
    run: Path | str,
    request: EvaluationRequest | None = None,
    processes: Processes = ALONE,
    watch: Watch = UNWATCHED,
) -> Evaluation:
    """Evaluate a run's checkpoint; see `eval.evaluate.evaluate`.

    Args:
        request: None: the newest checkpoint on the validation split, as at the end of the run.
    """
    request = request or EvaluationRequest()
    directory = RunDirectory(run)
    subject = RunSubject(str(run), directory, directory.choose(request.checkpoint))
    material = open_material(directory, request, watch.check)
    return evaluate(subject, material, request, processes, watch)


def data_of(directory: RunDirectory) -> Path:
    """Return the folder of the data that a run is validated on.

    Raises:
        ConfigError: the run's config names none.
    """
    config = directory.config()
    own = config.eval.path or config.data.path
    if own is None:
        raise ConfigError("the run's config names no data", fix="add --data DIR")
    return Path(own)


def open_material(
    directory: RunDirectory,
    request: EvaluationRequest,
    check: Callable[[], None] = lambda: None,
) -> Material:
    """Open the first of the data that has the run's tokenizer or is raw text."""
    paths = [Path(path) for path in request.data] or [data_of(directory)]
    tokenizer = load_tokenizer(directory.path / "tokenizer")
    for path in paths:
        if path.exists() and not (path / "manifest.json").exists():
            texts = read_texts(path, request.split, request.max_documents, check)
            return Material.from_texts(texts)
        data = open_data(path)
        if data.tokenizer_fingerprint == tokenizer.fingerprint:
            return Material.from_data(data, request.split, request.max_documents)
    raise ConfigError(
        f"{', '.join(map(str, paths))} was prepared with another tokenizer than {directory.path} "
        "was trained with",
        fix=f"prepare the text with --tokenizer {directory.path}/tokenizer",
    )


@dataclass(frozen=True)
class RunSubject:
    """A checkpoint of a run, see `eval.evaluate.Subject`."""

    name: str  # path of the run as the user wrote it
    directory: RunDirectory
    chosen: ChosenCheckpoint
    notes = ("precision",)

    @cached_property
    def _config(self) -> RunConfig:
        return self.directory.config()

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights' file."""
        return self.chosen.weights_hash

    @property
    def step(self) -> int:
        """Number of updates of the checkpoint."""
        return self.chosen.step

    @property
    def evals(self) -> Path:
        """`evals/` of the run."""
        return self.directory.evals

    @property
    def default_context(self) -> int:
        """Context that the run was validated with."""
        return self._config.eval_context

    @property
    def max_context(self) -> int:
        """Positions of the model."""
        return self._config.model.max_seq_len

    def score(
        self, material: Material, policy: Policy, device: str, how: Scoring
    ) -> tuple[DocumentLosses, dict[str, Any]]:
        """Score with the checkpoint and note the precision of its weights."""
        tokenizer = load_tokenizer(self.directory.path / "tokenizer")
        scored = np.arange(material.n_documents)
        what = material.what
        documents: Documents
        if isinstance(what, Texts):  # raw texts need no proof
            bos, eos = tokenizer.bos_id, tokenizer.eos_id
            encoded = [[bos, *ids, eos] for ids in tokenizer.encode_batch(what.texts)]
            documents, hashes = encode_texts(what, encoded), what.hashes
        else:
            known = None if material.data is None else known_texts(material.data, what)
            hashes = hash_texts(what, scored, tokenizer, known, how.watch.check)
            documents = what
        model = open_chosen(self.directory, self.chosen, device).model
        with exact_matmul(device):
            losses = score_documents(model, documents, scored, policy, how)
        return replace(losses, text_hashes=hashes), {"precision": precision_of(model)}

    def training(self, noted: dict[str, Any]) -> dict[str, Any]:
        """Return size and compute of the weights; a converted model's compute is not known."""
        described = describe_run(self._config, self.directory, noted["step"])
        if not self.directory.environment_file.is_file():
            described |= {"n_positions": None, "flops": None}
        return {name: described[name] for name in ("run_id", "n_params", "n_positions", "flops")}


@contextmanager
def exact_matmul(device: str) -> Iterator[None]:
    """Multiply float32 matrices with the fastest exact setting inside the context."""
    matmul = probe_matmul(ExecutionConfig(device="cpu" if device == "cpu" else "cuda"))
    with float32_matmul(matmul["setting"]):
        yield
