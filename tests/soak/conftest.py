import pathlib
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "e2e"), str(TESTS / "fault")]   # for server.py and load.py, and their neighbours


def pytest_configure(config):
    config.addinivalue_line("markers", "web: of tests/e2e")


def pytest_terminal_summary(terminalreporter):
    """Shows what the histories of several hosts have cost, as a table for docs/several-hosts.md."""
    import outcome

    for line in outcome.table():
        terminalreporter.write_line(line)
