"""Measure and record how a conversion changes the logits.

Owns `certify`. The twin (`twin.py`) runs the source in the source's own format. It is compared with
witnesses of the result: the twin in the result's own format, ladderlm's model with reference
attention, and for Hugging Face folders transformers, if it is installed. A change of dtype is
measured separately: the witnesses are compared with the source *rounded to the result's dtype*, so
that rounding cannot hide a fault.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladderlm.checkpoint.load import load_weights
from ladderlm.convert.convert import open_source
from ladderlm.convert.gguf import read_gguf, round_like
from ladderlm.convert.twin import greedy_tokens, run_twin
from ladderlm.convert.weights import Source, parameter_shapes
from ladderlm.convert.witness import META_NAMES, Witness, witness_of
from ladderlm.errors import CheckpointError, LadderError
from ladderlm.files import publish_json, publish_text, sha256_file
from ladderlm.model.accounting import count_params
from ladderlm.model.transformer import Transformer

__all__ = ["TOLERANCE", "certify", "compare", "write_certificate"]

TOLERANCE = 1e-5  # of max|a - b| / max|b|; rounding of float64 and float32 sums is far smaller
_SHORT, _LONG = 64, 2048  # positions
_QUIET = 2.0**-6  # scale of embeddings at which the eps of a norm matters
_PROMPT, _NEW = 8, 32  # tokens of greedy decoding
_MOST_BYTES_IN_MEMORY = 16 << 30  # ladderlm's model is loaded as a whole, in float64

Logits = Callable[[Sequence[Sequence[int]], float], list[Tensor]]


@dataclass(frozen=True)
class _Probe:
    """The token rows that every witness runs.

    Args:
        greedy: the prompt and its continuation by the source.
    """

    long: list[int]
    greedy: list[int]

    @property
    def short(self) -> list[int]:
        return self.long[:_SHORT]


def compare(found: Tensor, expected: Tensor) -> dict[str, float]:
    """Return the largest difference, absolute and relative to the largest expected logit."""
    absolute = float((found - expected).abs().max())
    return {"absolute": absolute, "relative": absolute / float(expected.abs().max())}


def certify(source: Source, to: str, out: Path) -> dict[str, Any]:
    """Compare a converted folder with its source; a folder that cannot be opened is a fault.

    Returns:
        `holds`, `verdict`, `witnesses` with differences at short and long positions and with quiet
        embeddings, `greedy` agreement, `rounding`, and the SHA-256 of every file, for JSON.
    """
    vocab_size, context = source.config.vocabulary, source.config.max_seq_len
    generator = torch.Generator().manual_seed(0)
    long = torch.randint(vocab_size, (min(_LONG, context),), generator=generator).tolist()
    recipe, read = witness_of(source)
    prompt = long[: min(_PROMPT, context - 1)]
    new = greedy_tokens(recipe, read, prompt, min(_NEW, context - len(prompt)))
    probe = _Probe(long, [*prompt, *new])
    hop: dict[str, Any] = {
        "from": _describe_files(source.kind, source.folder, source.files),
        "to": {"kind": to, "folder": out.name, "files": {}},
    }
    certificate: dict[str, Any] = {
        "kind": "ladderlm-certificate",
        "format_version": 1,
        "hop": hop,
        "n_params": count_params(source.config).total,
        "tolerance": TOLERANCE,
        "positions": {"short": len(probe.short), "long": len(long)},
        "witnesses": [],
        "faults": [],
    }
    try:
        result = _open_result(source, to, out)
        hop["to"] = _describe_files(to, out, result.files)
        _measure(certificate, (recipe, read), result, probe, len(prompt))
    except LadderError as error:
        certificate["faults"].append(f"the result cannot be read: {error.what}")
    certificate["holds"] = not certificate["faults"]
    if certificate["holds"]:
        verdict = f"the certificate holds: no logit differs by more than {TOLERANCE:g}"
        rounding = certificate["rounding"]
        if change := max(rounding[part]["relative"] for part in ("short", "long")):
            verdict += f", compared with {change:.1e} from rounding to {rounding['dtype']}"
    else:
        verdict = "THE CERTIFICATE DOES NOT HOLD: " + "; ".join(certificate["faults"])
    return certificate | {"verdict": verdict}


def _describe_files(kind: str, folder: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Return the names of a folder and its files, without paths, and the hashes of the files."""
    hashes = {path.name: sha256_file(path) for path in files}
    return {"kind": kind, "folder": folder.resolve().name, "files": hashes}


def _open_result(source: Source, to: str, out: Path) -> Source:
    if to == "gguf":
        return read_gguf(out)
    result = open_source(out)
    return replace(result, config=replace(result.config, max_seq_len=source.config.max_seq_len))


def _measure(
    certificate: dict[str, Any], own: Witness, result: Source, probe: _Probe, n_prompt: int
) -> None:
    """Fill in `rounding`, `witnesses` and `faults`."""
    rounded = (own[0], _rounded(own, result))
    expected = _logits_by_twin(rounded)
    rows = [probe.long, probe.greedy]
    wanted, quiet = expected(rows, 1.0), expected([probe.short], _QUIET)[0]
    exact = run_twin(*own, rows)
    n_short = len(probe.short)
    kept = {str(dtype).removeprefix("torch.") for dtype in result.dtypes.values()}
    certificate["rounding"] = {
        "dtype": " and ".join(sorted(kept)).replace("int8", "q8_0"),
        "short": compare(wanted[0][:n_short], exact[0][:n_short]),
        "long": compare(wanted[0], exact[0]),
        "greedy": _agreement(wanted[1], exact[1], n_prompt),
    }
    for name, logits in _witnesses(result):
        found = logits(rows, 1.0)
        entry: dict[str, Any] = {
            "name": name,
            "short": compare(found[0][:n_short], wanted[0][:n_short]),
            "long": compare(found[0], wanted[0]),
            "quiet": compare(logits([probe.short], _QUIET)[0], quiet),
            "greedy": _agreement(found[1], wanted[1], n_prompt),
        }
        certificate["witnesses"].append(entry)
        worst = max(entry[part]["relative"] for part in ("short", "long", "quiet"))
        if not worst <= TOLERANCE:  # NaN is a fault
            certificate["faults"].append(f"{name} differs by {worst:.1e} of the largest logit")


def _agreement(found: Tensor, expected: Tensor, n_prompt: int) -> dict[str, int]:
    """Count the greedy tokens on which two models agree, given the same text before each.

    If all agree, both models generate the same text on their own.
    """
    ours, theirs = (logits[n_prompt - 1 : -1].argmax(-1) for logits in (found, expected))
    return {"same": int((ours == theirs).sum()), "of": len(theirs)}


def _rounded(own: Witness, result: Source) -> Callable[[str, int], Tensor]:
    """Return a reader of the source's parts, rounded to the result's dtypes."""

    def read(part: str, layer: int) -> Tensor:
        tensor = own[1](part, layer)
        name = META_NAMES[part].format(i=layer)
        if result.kind == "gguf":
            return round_like(result, name, tensor)
        return tensor.to(result.dtypes.get(name, tensor.dtype))

    return read


def _logits_by_twin(witness: Witness) -> Logits:
    return lambda rows, scale: run_twin(*witness, rows, scale)


def _witnesses(result: Source) -> list[tuple[str, Logits]]:
    found = [(f"twin of {result.kind}", _logits_by_twin(witness_of(result)))]
    if count_params(result.config).total * 8 <= _MOST_BYTES_IN_MEMORY:
        found.append(("ladderlm's model", _logits_by_ladderlm(result)))
    if result.kind == "hf":
        try:
            import transformers
        except ImportError:
            return found
        transformers.logging.disable_progress_bar()
        found.append((f"transformers {transformers.__version__}", _logits_by_transformers(result)))
    return found


def _logits_by_ladderlm(result: Source) -> Logits:
    """Run `model.transformer` in float64, loaded as every command loads it."""
    config = replace(result.config, attention="reference")
    model = Transformer(config).double().eval()
    names = parameter_shapes(config)
    load_weights(model, {n: result.read(n).double() for n in names}, str(result.folder))
    return _logits_by_module(model.tok_embeddings, lambda tokens: model(tokens))


def _logits_by_transformers(result: Source) -> Logits:
    from transformers import LlamaForCausalLM

    try:
        model = LlamaForCausalLM.from_pretrained(
            result.folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"transformers cannot open {result.folder.name}: {error}") from error
    embedding = model.get_input_embeddings()
    return _logits_by_module(embedding, lambda tokens: model(tokens).logits)


def _logits_by_module(embedding: torch.nn.Module, run: Callable[[Tensor], Tensor]) -> Logits:
    """Run whole rows, with a hook that scales the output of the embedding."""

    def logits(rows: Sequence[Sequence[int]], scale: float) -> list[Tensor]:
        hook = embedding.register_forward_hook(lambda _module, _inputs, output: output * scale)
        try:
            with torch.inference_mode():
                return [run(torch.tensor([row]))[0].double() for row in rows]
        finally:
            hook.remove()

    return logits


def write_certificate(certificate: dict[str, Any], path: Path) -> Path:
    """Write the certificate as JSON and as a page of the same name, and return the page.

    `path` may end in .json, in .md or in neither.
    """
    stem = path.with_suffix("") if path.suffix in (".json", ".md") else path
    publish_json(stem.with_name(stem.name + ".json"), certificate)
    page = stem.with_name(stem.name + ".md")
    publish_text(page, _page(certificate))
    return page


def _page(certificate: dict[str, Any]) -> str:
    hop, positions = certificate["hop"], certificate["positions"]
    lines = [
        f"# From {hop['from']['kind']} to {hop['to']['kind']}",
        "",
        certificate["verdict"] + ".",
        "",
        f"{certificate['n_params']:,} parameters. Short: positions 0 to {positions['short'] - 1}; "
        f"long: 0 to {positions['long'] - 1}; quiet: short, with embeddings scaled by "
        f"{_QUIET:g}. Relative is max|a - b| / max|b| over the row; tolerance "
        f"{certificate['tolerance']:g}. Greedy: equal tokens.",
        "",
        "| witness | short, absolute | relative | long, absolute | relative | quiet, relative "
        "| greedy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in certificate["witnesses"]:
        cells = [row["name"]]
        for part in ("short", "long"):
            cells += [f"{row[part]['absolute']:.2e}", f"{row[part]['relative']:.2e}"]
        cells += [f"{row['quiet']['relative']:.2e}"]
        cells += [f"{row['greedy']['same']} of {row['greedy']['of']}"]
        lines.append("| " + " | ".join(cells) + " |")
    if "rounding" in certificate:
        row = certificate["rounding"]
        lines += [
            "",
            f"Rounding the weights to {row['dtype']} changes the logits by "
            f"{row['short']['relative']:.2e} (short) and {row['long']['relative']:.2e} (long) of "
            f"the largest; {row['greedy']['same']} of {row['greedy']['of']} greedy tokens stay.",
        ]
    for side in ("from", "to"):
        lines += ["", f"## Files {side} {hop[side]['folder']}", ""]
        lines += [f"- `{name}` sha256 `{value}`" for name, value in hop[side]["files"].items()]
    return "\n".join(lines) + "\n"
