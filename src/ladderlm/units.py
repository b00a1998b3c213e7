"""Turn numbers with units into text and back.

Owns spelling of counts, bytes, FLOPs and durations; nothing is computed here.
"""

import re

from ladderlm.errors import ConfigError

__all__ = ["format_bytes", "format_count", "format_flops", "format_seconds", "parse_bytes"]

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTE_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def format_count(n: float) -> str:
    """Spell a count with at most three digits and a metric letter: 1234567 gives '1.23M'."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit:
            return f"{n / limit:.3g}{letter}"
    return f"{n:.3g}"


def format_bytes(n: float) -> str:
    """Spell bytes in powers of 1000: 1234567 gives '1.23 MB'."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n) >= limit:
            return f"{n / limit:.3g} {unit}"
    return f"{n:.0f} B"


def format_flops(n: float) -> str:
    """Spell floating-point operations: 1.5e13 gives '1.50e13 FLOPs'."""
    mantissa, exponent = f"{n:.2e}".split("e")
    return f"{mantissa}e{int(exponent)} FLOPs"


def format_seconds(seconds: float) -> str:
    """Spell a duration with two units at most: 3725 gives '1h02m', 75 gives '1m15s'."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def parse_bytes(text: str) -> int:
    """Read '500MB', '1.5 GiB' or '1000' as bytes.

    Raises:
        ConfigError: not a number with a known unit, or negative.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _BYTE_UNITS:
        raise ConfigError(
            f"{text!r} is not a size",
            "a size is a number with an optional unit",
            "write for example 500MB, 1.5GB or 64MiB",
        )
    return int(float(match[1]) * _BYTE_UNITS[match[2].upper()])
