"""A claim where the file system has no locks."""

import fcntl

import pytest

from pyrovae.claims import claimed


def test_without_locks_each_process_is_told_and_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    words = "cannot be locked here: let one process alone work in it"
    with pytest.warns(UserWarning, match=words) as told, claimed(tmp_path / "work") as mine:
        assert mine
    assert told[0].filename == __file__
