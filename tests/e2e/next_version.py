"""An invented next version of pgpoll, with another version of the schema, for tests of upgrades."""
import contextlib
import shutil
import subprocess

from server import ROOT, SCHEMA_VERSION

NEXT = int(SCHEMA_VERSION) + 1


@contextlib.contextmanager
def next_version(tree):
    """Yields the directory with its sources. Only files that contain the version are compiled again."""
    subprocess.run(["cp", "-a", *(ROOT / name for name in ("Makefile", "build", "deploy", "examples", "fcgi", "sql", "src")), tree], check=True)
    (tree / "sql/version.sql").write_text(f"\\set schema_version {NEXT}\n")
    (tree / "sql/upgrades").mkdir(exist_ok=True)
    (tree / f"sql/upgrades/{NEXT}.sql").write_text("ALTER TABLE pgpoll.messages ADD COLUMN colour text;\n")
    try:
        yield tree
    finally:
        shutil.rmtree(tree)
