import pytest

from server import Server, new_topic


def pytest_configure(config):
    config.addinivalue_line("markers", "web: depends on the web server (WEB=apache, WEB=nginx; lighttpd)")


@pytest.fixture(scope="session")
def server():
    """The one that most tests share."""
    with Server(24) as server:
        yield server


@pytest.fixture(scope="session")
def small():
    """Two workers: both can be kept busy."""
    with Server(2) as server:
        yield server


@pytest.fixture
def topic():
    return new_topic()
