"""Describe evaluations as text for a terminal.

Owns the layout of what `ladderlm eval` prints. Every number comes from the summaries.
"""

from collections.abc import Sequence
from typing import Any

from ladderlm.eval.config import Policy
from ladderlm.text import visible
from ladderlm.units import format_count

__all__ = ["describe_comparison", "describe_evaluation", "describe_table"]


def describe_evaluation(name: str, summary: dict[str, Any], path: str) -> str:
    """Return the text about one run: what was scored and how, the averages, one line per subset."""
    n_documents, n_all = summary["n_documents"], summary["split_documents"]
    which = "the first of a longer file" if n_all is None else f"the first of {n_all:,}"
    if n_documents == n_all:
        which = "all there are"
    eos = f"EOS alone {summary['eos_nats'] / max(n_documents, 1):.4f} nats a document"
    if "text" in summary and summary["text"]["end_token"] is None:
        eos = "the tokenizer has no EOS"
    step = "" if summary["step"] is None else f", step {summary['step']}"
    lines = [
        f"{visible(name)}{step}, {summary['precision']}: "
        f"{summary['split']}, {n_documents:,} documents ({which}), {summary['n_bytes']:,} bytes",
        f"  {_source(summary['source'])}",
        f"  {Policy(**summary['policy']).words}",
        *(f"  {visible(line)}" for line in _foreign(summary)),
        f"  micro {summary['bits_per_byte']:.4f} bits/byte over all bytes "
        f"(95 % {_interval(summary['bits_per_byte_95'])})",
        f"  macro {summary['macro_bits_per_byte']:.4f} bits/byte, "
        f"mean over subsets ({len(summary['subsets'])})",
        f"  {summary['loss']:.4f} nats/token with EOS, perplexity {summary['perplexity']:.2f}; "
        f"{eos}, not in bits/byte",
        f"  {'subset':<26} {'documents':>9} {'bytes':>12} {'bits/byte':>10} "
        f"{'95 % interval':>18} {'nats/token':>11} {'bytes/token':>12}",
    ]
    unknown = set(summary["pile"]["unknown"])
    for subset, row in summary["subsets"].items():
        mark = "*" if subset in unknown and summary["pile"]["occurring"] else ""
        lines.append(
            f"  {visible(subset) + mark:<26} {row['n_documents']:>9,} {row['n_bytes']:>12,} "
            f"{row['bits_per_byte']:>10.4f} {_interval(row['bits_per_byte_95']):>18} "
            f"{row['loss']:>11.4f} {row['bytes_per_token']:>12.2f}"
        )
    lines.append(f"  {_pile(summary['pile'])}")
    lines.append(f"  {'stored already, read from' if summary['reused'] else 'stored in'} {path}")
    return "\n".join(lines)


def _foreign(summary: dict[str, Any]) -> list[str]:
    """Return lines about a foreign model and its tokenizer; none for a run."""
    if "foreign" not in summary:
        return []
    model, text = summary["foreign"], summary["text"]
    begin = {
        "bos": f"a document begins with {text['begin_token']}",
        "eos": f"no BOS: a document begins with EOS, {text['begin_token']}",
        "none": "no BOS and no EOS: the first token of a document counts as a uniform guess",
    }[text["begins"]]
    commit = f", commit {model['commit']}" if model["commit"] else ""
    lines = [
        f"{model['architecture']}{commit}, {format_count(model['n_params']['total'])} parameters; "
        + begin
    ]
    if n := text["n_changed_documents"]:
        lines.append(
            f"the tokenizer changes {n:,} of the texts ({text['n_changed_bytes']:,} bytes): bytes "
            "that it drops are not scored, so bits/byte is too low"
        )
    return lines


def _source(source: dict[str, Any]) -> str:
    files = [f"{file['name']} (sha256 {file['sha256'][:12]})" for file in source["files"]]
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    named = "from " + (visible(", ".join(files[:3])) + more if files else "standard input")
    overlap = source["overlap_with_train"]
    if overlap is None:
        return f"{named}; the data has no training split to look for these texts in"
    return f"{named}; {overlap:,} texts of the split are in the data's training split too"


def _pile(pile: dict[str, list[str]]) -> str:
    occurring, missing, unknown = (pile[key] for key in ("occurring", "missing", "unknown"))
    n_official = len(occurring) + len(missing)
    said = f"{len(occurring)} of the Pile's {n_official} official subsets occur"
    if not occurring:
        return f"none of the Pile's {n_official} official subsets occurs"
    if missing:
        said += f"; not: {', '.join(missing)}"
    else:
        said = f"all {n_official} official subsets of the Pile occur"
    return said + (f"\n  * {len(unknown)} names are not official" if unknown else "")


def _interval(ends: Sequence[float] | None, form: str = "{:.4f}") -> str:
    if ends is None:
        return "too few documents"
    return " to ".join(form.format(end) for end in ends)


def describe_comparison(found: dict[str, Any]) -> str:
    """Return the text about two runs: the differences over all bytes, on average, per subset."""
    own, against = found["policies"]
    lines = [
        f"{visible(found['run'])} against {visible(found['against'])}, on the same "
        f"{found['n_documents']:,} documents ({found['n_texts']:,} different texts); "
        "negative: the former is better"
    ]
    if own != against:
        lines.append(
            f"  the policies differ: context {own['context']}, stride {own['stride']} against "
            f"context {against['context']}, stride {against['stride']}"
        )
    head = ("former", "latter", "difference", "95 % interval", "p")
    subsets = found["subsets"].items()
    lines += [
        f"  {'':<26} " + "{:>9} {:>9} {:>11} {:>20} {:>8}".format(*head),
        _difference_line("micro (all bytes)", found["micro"], "p"),
        _difference_line("macro (mean over subsets)", found["macro"], "p"),
        "  subsets, p corrected for multiple comparisons",
        *(_difference_line(visible(name), row, "p_holm") for name, row in subsets),
        f"  {found['method']}",
    ]
    return "\n".join(lines)


def _difference_line(name: str, row: dict[str, Any], p: str) -> str:
    interval = _interval(row["difference_95"], "{:+.4f}")
    chance = "" if row[p] is None else "<0.001" if row[p] < 0.001 else f"{row[p]:.3f}"
    return (
        f"  {name:<26} {row['bits_per_byte']:>9.4f} {row['against_bits_per_byte']:>9.4f} "
        f"{row['difference']:>+11.4f} {interval:>20} {chance:>8}"
    )


def describe_table(
    runs: Sequence[tuple[str, dict[str, Any]]], comparisons: Sequence[dict[str, Any]]
) -> str:
    """Return one line per run, with its paired difference from the first run."""
    name, first = runs[0]
    width = max(len("run"), *(len(visible(run)) for run, _ in runs))
    lines = [
        f"{first['split']}, {first['n_documents']:,} documents, {first['n_bytes']:,} bytes; "
        f"{_source(first['source'])}",
        f"{'run':<{width}} {'step':>7} {'parameters':>10} {'train FLOPs':>11} "
        f"{'context/stride':>14} {'bits/byte':>9} {'macro':>8} {'difference':>12} "
        f"{'95 % interval':>20}",
    ]
    differences = [None, *(found["micro"] for found in comparisons)]
    for (run, summary), row in zip(runs, differences, strict=True):
        training, policy = summary["training"], summary["policy"]
        step = "" if summary["step"] is None else f"{summary['step']:,}"
        flops = "unknown" if training["flops"] is None else f"{training['flops']:.2e}"
        cells = (
            f"{visible(run):<{width}} {step:>7} "
            f"{format_count(training['n_params']['total']):>10} {flops:>11} "
            f"{policy['context']:>8}/{policy['stride']:<5} {summary['bits_per_byte']:>9.4f} "
            f"{summary['macro_bits_per_byte']:>8.4f}"
        )
        if row is not None:
            interval = _interval(row["difference_95"], "{:+.4f}")
            cells += f" {row['difference']:>+12.4f} {interval:>20}"
        lines.append(cells.rstrip())
    if comparisons:
        lines.append(f"difference in bits/byte from {visible(name)}; negative is better")
        lines.append(str(comparisons[0]["method"]))
    if len({(s["policy"]["context"], s["policy"]["stride"]) for _, s in runs}) > 1:
        lines.append("the runs were not scored with the same context and stride")
    for run, summary in runs:
        lines += [f"{visible(run)}: {visible(line)}" for line in _foreign(summary)]
    return "\n".join(lines)
