import shutil
import subprocess

import chromium
import pytest

from server import ROOT, Server, new_topic


def pytest_configure(config):
    config.addinivalue_line("markers", "web: depends on the web server (WEB=apache, WEB=nginx; lighttpd)")


@pytest.fixture(scope="session")
def server():
    """The server that most tests share."""
    with Server(24) as server:
        yield server


@pytest.fixture(scope="session")
def small():
    """A server with two workers, which a test can keep busy."""
    with Server(2) as server:
        yield server


@pytest.fixture
def topic():
    return new_topic()


@pytest.fixture(scope="session")
def npm():
    """npm("package@version") returns the directory of a package that Debian does not have. It is downloaded once."""
    def directory(package):
        path = ROOT / "build" / "npm" / package / "node_modules" / package.rsplit("@", 1)[0]
        if not path.is_dir():
            if not shutil.which("npm"):
                pytest.skip("no npm")
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", ROOT / "build" / "npm" / package, package],
                           check=True, stdin=subprocess.DEVNULL, timeout=120)
        return path

    return directory


@pytest.fixture(scope="session")
def driver():
    """Chromium, which tests use one after the other: they leave one window."""
    driver = chromium.start()
    yield driver
    driver.quit()
