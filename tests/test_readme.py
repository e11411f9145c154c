"""The README's code runs as it stands."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_code_runs(tmp_path, monkeypatch):
    """Block by block, the names of one going on into the next, as a reader types them."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in BLOCKS:
        exec(compile(code, "README.md", "exec"), names)
        assert names["ys"].ndim == 3
    assert names["error"].get() is None
    assert names["best"].shape == (20, 8)
    assert names["found"].tokens.shape == (4, 12)
    assert [record["epoch"] for record in names["fitted"].history] == [1, 2, 3, 4, 5]


def test_there_is_code():
    assert len(BLOCKS) == 4
    assert all(len(code.strip().splitlines()) <= 30 for code in BLOCKS)
