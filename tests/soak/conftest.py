import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))   # for server.py and its neighbours


def pytest_configure(config):
    config.addinivalue_line("markers", "web: of tests/e2e")
