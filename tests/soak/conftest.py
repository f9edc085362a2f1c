import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))   # server.py and its friends


def pytest_configure(config):
    config.addinivalue_line("markers", "web: of tests/e2e")
