"""Format numbers with units as text, and parse them.

Owns the spelling of counts, bytes, FLOPs and durations.
"""

import re

from ladderlm.errors import ConfigError

__all__ = ["format_bytes", "format_count", "format_flops", "format_seconds", "parse_bytes"]

_BYTE_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTE_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _in_units(n: float, *units: str) -> str:
    """Format a number with three digits in the first unit in which it is below 1000."""
    for unit in units:
        size = float(f"{n:.3g}")
        if abs(size) < 1000:
            return f"{size:.3g}{unit}"
        n = n if unit == units[-1] else n / 1000
    return f"{n:.0f}{units[-1]}"


def format_count(n: float) -> str:
    """Format a count with at most three digits and a letter: 1234567 as '1.23M'."""
    return _in_units(n, "", "k", "M", "B", "T")


def format_bytes(n: float) -> str:
    """Format bytes in powers of 1000: 1234567 as '1.23 MB'."""
    return _in_units(n, " B", " kB", " MB", " GB", " TB")


def format_flops(n: float) -> str:
    """Format floating-point operations: 1.5e13 as '1.50e13 FLOPs'."""
    mantissa, exponent = f"{n:.2e}".split("e")
    return f"{mantissa}e{int(exponent)} FLOPs"


def format_seconds(seconds: float) -> str:
    """Format a duration with at most two units: 3725 as '1h02m', 75 as '1m15s'."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def parse_bytes(text: str) -> int:
    """Parse '500MB', '1.5 GiB' or '1000' as bytes.

    Raises:
        ConfigError: the text is not a number with a known unit, or is negative.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if not match or match[2].upper() not in _BYTE_UNITS:
        raise ConfigError(
            f"a size must be a number with an optional unit, got {text!r}",
            fix="write for example 500MB, 1.5GB or 64MiB",
        )
    return int(float(match[1]) * _BYTE_UNITS[match[2].upper()])
