"""What the source tree promises: includes point down, one version everywhere, a tarball that builds by itself."""
import shutil
import subprocess

import pytest

from server import ROOT


@pytest.fixture
def tree(tmp_path):
    """write(file, line) puts a line at the head of a file in a copy of the sources; check() runs tests/layers there."""
    for directory in "src", "fcgi":
        shutil.copytree(ROOT / directory, tmp_path / directory)

    class Tree:
        def write(self, file, line):
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(line + "\n" + (path.read_text() if path.exists() else ""))

        def check(self):
            done = subprocess.run([ROOT / "tests/layers", tmp_path], capture_output=True, text=True, timeout=60)
            assert done.stderr == "", done.stderr
            return done.returncode, done.stdout.splitlines()

    return Tree()


def test_includes_point_down(tree):
    assert tree.check() == (0, [])
    tree.write("src/shared/new.h", "")
    tree.write("src/postgres/new.c", '#include "core/new.h"')
    tree.write("src/core/new.h", '#include "shared/new.h"')
    tree.write("fcgi/new.c", '#include "shared/new.h"\n#include <fcgiapp.h>')
    assert tree.check() == (1, ["src/core/new.h:1: core must not include shared (shared/new.h)"])


@pytest.mark.parametrize("file, line, reason", (
    ("src/api/new.c", '#include "missing.h"', "there is no missing.h"),
    ("src/utils/new.c", '#include "core/new.h"', "utils is no folder in the table of tests/layers"),
    ("src/new.c", '#include "core/new.h"', "new.c is no folder in the table of tests/layers"),
    ("src/worker/new.c", "#include <fcgiapp.h>", "only fcgi includes <fcgiapp.h>"),
    ("fcgi/new.c", "#include <libpq-fe.h>", "only postgres includes <libpq-fe.h>")))
def test_includes_that_are_refused(tree, file, line, reason):
    tree.write("src/core/new.h", "")
    tree.write(file, line)
    assert tree.check() == (1, [f"{file}:1: {reason}"])


def test_modules_that_include_each_other_are_refused(tree):
    tree.write("src/core/new.h", "")
    tree.write("src/core/new.c", '#include "core/other.h"')
    tree.write("src/core/other.h", '#include "core/new.h"')
    code, (line,) = tree.check()
    said, modules = line.split(": ")
    assert code == 1 and said == "these modules include each other" and set(modules.split()) == {"src/core/new", "src/core/other"}
