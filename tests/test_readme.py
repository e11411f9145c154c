"""The README's code runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.split("\n")[0])
def test_code_runs(code):
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["ys"].ndim == 3


def test_there_is_code():
    assert len(BLOCKS) == 1
    assert len(BLOCKS[0].strip().splitlines()) <= 30
