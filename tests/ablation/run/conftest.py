"""A hand-made sweep with a small script in place of training."""

import pytest

from tests.ablation.run.hand_made import HandMade


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A hand-made sweep in `out`, of so many cells; by default on SQLite. own_1="broken": the fate of run own/1."""

    def make(number: int, out: str = "out", storage: str = f"sqlite:///{tmp_path}/study.db", **fates: str) -> HandMade:
        fates = {name.replace("_", "/"): fate for name, fate in fates.items()}
        sweep = HandMade(tmp_path / out, storage, number, fates)
        sweep.folder.root.mkdir(exist_ok=True)
        sweep.stand_in(monkeypatch.setattr)
        return sweep

    return make
