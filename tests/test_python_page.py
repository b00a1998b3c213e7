"""The code of docs/python.md runs, and a cell may be executed twice in a row."""

import re
from pathlib import Path

from builders import TINY_LADDER, InOwnProcess, tiny_study, write_study

PAGE = Path(__file__).parents[1] / "docs/python.md"


def test_the_code_of_the_python_page_runs_each_cell_twice(tiny_data, tmp_path, monkeypatch, capsys):
    values = tiny_study(tiny_data, name="mlp")
    values["ladder"]["flops"] = list(TINY_LADDER[:2])
    write_study(tmp_path / "studies/mlp.toml", values)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ladderlm.study.study.LocalExecutor", InOwnProcess)
    cells = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(cells) == 5
    names = {}
    for cell in cells:
        for _ in range(2):
            exec(cell, names)
    said = capsys.readouterr().out
    assert said.count("Plan of mlp: 4 runs") == 2
    assert said.count("Fits of mlp\n  gelu: ") == 2
    assert names["forecast"] is None or names["forecast"].predictions
    assert names["fits"].judged[0].comparison.variant == "gelu"
