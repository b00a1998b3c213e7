"""Foreign text is shown, not obeyed."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ladderlm.text import visible
from reference.hostile import HOSTILE


@given(text=st.text())
def test_nothing_that_acts_on_a_terminal_or_a_line_gets_through(text):
    """P01."""
    shown = visible(text)
    for char in shown:
        assert char in "\n\t" or unicodedata.category(char)[0] != "C"
        assert char not in "\u2028\u2029"
    assert visible(shown) == shown
    assert "\n" not in visible(text, "")


def test_letters_of_every_script_stay_and_escapes_are_spelt_out():
    """P01."""
    assert visible("Ωéש中文 𝔘\n\t") == "Ωéש中文 𝔘\n\t"
    assert visible(HOSTILE["escape"]) == "\\u{1b}[31mred\\u{1b}[0m"
    assert visible(HOSTILE["direction"]) == "\\u{202e}reversed\\u{2066}"
