"""The example of docs/testing.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_example_prints_what_it_says(capsys):
    page = (Path(__file__).parents[3] / "docs/testing.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "docs/testing.md", "exec"), {"__name__": "example"})
    said = re.search(r"print\(run\(main\(\)\)\)  # (\[.*?\])", code)
    assert said is not None
    assert capsys.readouterr().out.strip() == said[1]
