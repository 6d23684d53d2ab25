import pyrovae


def test_everything_public_is_there():
    assert all(hasattr(pyrovae, name) for name in pyrovae.__all__)
