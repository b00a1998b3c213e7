"""Turn numbers with units into text and back.

Owns spelling of counts, bytes, FLOPs and durations; nothing is computed here.
"""

import re

from ladderlm.errors import ConfigError

__all__ = ["format_bytes", "format_count", "format_flops", "format_seconds", "parse_bytes"]

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTE_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _spell(n: float, units: tuple[str, ...]) -> str:
    """Spell a number with three digits, in the unit where it stays below 1000."""
    size = f"{n:.3g}"
    for unit in units:
        if abs(float(size)) < 1000 or unit == units[-1]:
            return f"{float(size):.3g}{unit}" if abs(float(size)) < 1000 else f"{n:.0f}{unit}"
        n /= 1000
        size = f"{n:.3g}"
    return size


def format_count(n: float) -> str:
    """Spell a count with at most three digits and a metric letter: 1234567 gives '1.23M'."""
    return _spell(n, ("", "k", "M", "B", "T"))


def format_bytes(n: float) -> str:
    """Spell bytes in powers of 1000: 1234567 gives '1.23 MB'."""
    return _spell(n, (" B", " kB", " MB", " GB", " TB"))


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
