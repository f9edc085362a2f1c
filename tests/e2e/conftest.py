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
def promtool(tmp_path_factory):
    """promtool is in Debian's package promtool, and before Debian 13 in prometheus, of which only this file is unpacked."""
    if found := shutil.which("promtool"):
        return found
    home = tmp_path_factory.mktemp("promtool")
    subprocess.run("get='apt-get -qq -o APT::Sandbox::User=root download'; { $get promtool || $get prometheus; } >&2 &&"
                   " dpkg-deb --fsys-tarfile prom*.deb | tar x ./usr/bin/promtool", shell=True, cwd=home, check=True)
    return home / "usr/bin/promtool"


@pytest.fixture(scope="session")
def driver():
    """Chromium, which tests use one after the other: they leave one window."""
    driver = chromium.start()
    yield driver
    driver.quit()
