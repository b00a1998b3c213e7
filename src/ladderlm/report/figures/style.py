"""The look of every figure, and how it is written.

Owns colours, fonts and the parts that several figures share, and writes figures as deterministic
SVG. matplotlib is imported only in this package.
"""

import functools
import io
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import LogLocator, NullLocator

__all__ = [
    "ARM_COLOURS",
    "GREY",
    "Figure",
    "colour_of",
    "label_of",
    "log_ticks",
    "mark_optimum",
    "marker_of",
    "new_figure",
    "note_below",
    "paler",
    "png_bytes",
    "shade_of",
    "styled",
    "svg_text",
    "write_across",
]

P = ParamSpec("P")
T = TypeVar("T")

# Source: Okabe and Ito 2008; distinguishable with any colour vision.
ARM_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b7280"
FONT = "DejaVu Sans"  # comes with matplotlib

_STYLE: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "ladderlm",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#1f2937",
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "figure.facecolor": "white",
    "font.family": FONT,
    "text.usetex": False,  # in case the user's matplotlibrc sets it
    "text.parse_math": False,  # names of arms are shown as they are
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a drawing function use the common style."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


def marker_of(index: int) -> str:
    """Return the marker of an arm, by its place in the study."""
    return "osD^vP*"[index % 7]


def colour_of(index: int) -> str:
    """Return the colour of an arm by its place in the study."""
    return ARM_COLOURS[index % len(ARM_COLOURS)]


def shade_of(index: int, n: int) -> Any:
    """Return a shade, from dark to light, for one of n steps such as budgets."""
    return mpl.colormaps["cividis"](0.8 * index / max(n - 1, 1))


def paler(colour: str) -> str:
    """Return a colour half way to white."""
    red, green, blue = ((1 + part) / 2 for part in to_rgb(colour))
    return to_hex((red, green, blue))


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(family=FONT))).get_charmap())


def label_of(text: str, longest: int = 60) -> str:
    """Prepare a name for a figure: escape characters that cannot be drawn, and cut a long name.

    matplotlib's legends omit names that begin with an underscore, so those get a leading space.
    """
    shown = "".join(
        char
        if ord(char) in _glyphs() and unicodedata.category(char)[0] != "C"
        else f"\\u{{{ord(char):x}}}"
        for char in text
    )
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return " " + shown if shown.startswith("_") else shown


def _spell_tick(value: float, _place: object = None) -> str:
    """Spell a tick: 2e11 for large numbers, 0.05 for hours."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def log_ticks(axis: Any, multiples: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Label a logarithmic axis at some multiples of the powers of ten."""
    axis.set_major_locator(LogLocator(subs=multiples, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_spell_tick)


def mark_optimum(
    axes: Any, x: float, y: float, colour: Any, marker: str = "*", size: float = 12
) -> None:
    """Draw a large marker with a black edge over everything else."""
    style = {"marker": marker, "markersize": size, "markeredgecolor": "black", "zorder": 4}
    axes.plot([x], [y], color=colour, **style)


def write_across(axes: Any, text: str) -> None:
    """Write a text in the middle of axes, for example why there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center")


def note_below(figure: Figure, lines: Sequence[str], longest: int = 118) -> None:
    """Write small lines under a figure, each cut after `longest` characters."""
    text = "\n".join(label_of(line, longest) for line in lines)
    figure.supxlabel(text, fontsize=8, color=GREY, x=0.02, ha="left")


def new_figure(width: float, height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Create a figure (inches) without global state; call it from `styled` functions.

    Returns:
        The figure, and one axes or an array of them.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, **options)


def svg_text(figure: Figure) -> str:
    """Return a figure as SVG; equal data give equal bytes."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "ladderlm"})
    return buffer.getvalue()


def png_bytes(figure: Figure, dots_per_inch: int = 144) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": "ladderlm"})
    return buffer.getvalue()
