"""docs/models.md: what it shows runs, and its torch module gives what the model gives."""

import pages
import pytest

PAGE = "models.md"


@pytest.mark.parametrize("block", pages.blocks(PAGE))
def test_a_block_of_the_page_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pages.run(PAGE, block)
    if "load_state_dict({**net" in block:
        assert capsys.readouterr().out.endswith("\nTrue\n")
        assert (tmp_path / "trained.pt").exists()
