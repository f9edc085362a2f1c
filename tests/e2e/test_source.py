"""Checks of the source tree: includes point down, all places have the same version, the tarball builds by itself, and the names in documents for
developers exist."""
import json
import os
import re
import shutil
import subprocess

import pytest

from server import ROOT, SCHEMA_VERSION, VERSION

CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASES = re.findall(r"^## \[([^]]*)\] - (unreleased|\d{4}-\d\d-\d\d)$", CHANGELOG, re.M)


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
    ("src/manager/new.c", 'static const char sql[] = "SELECT pgpoll.new()";', "only postgres contains SQL"),
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


def test_a_suite_runs_every_file():
    run = " ".join(re.findall(r"end_to_end (?:managed|direct) (.*) ;;", (ROOT / "tests/run").read_text()))
    assert {path.stem.removeprefix("test_") for path in (ROOT / "tests/e2e").glob("test_*.py")} == set(run.split())


# ---- one version

def test_lines_of_c_and_sql_have_at_most_110_columns():
    """The formatter does not wrap every line. The schemas of older versions stay as they were."""
    long = [f"{path.relative_to(ROOT)}:{number}"
            for directory in ("src", "fcgi", "sql", "tests") for path in sorted((ROOT / directory).rglob("*"))
            if path.suffix in (".c", ".h", ".sql", ".psql") and path.parent.name != "schemas"
            for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 110]
    assert not long


def debian_changelog(tmp_path):
    """Returns (version, distribution, date) of each entry."""
    made = tmp_path / "changelog"
    made.write_text(subprocess.run(["awk", "-v", "maintainer=A B <a@b.example>", "-v", "now=Sat, 28 Nov 2026 18:00:00 +0000", "-f",
                                    ROOT / "deploy/debian/changelog.awk", ROOT / "CHANGELOG.md"], check=True, capture_output=True, text=True).stdout)
    parsed = subprocess.run(["dpkg-parsechangelog", "-l", made, "--all", "--format", "rfc822"], check=True, capture_output=True, text=True)
    assert parsed.stderr == "", parsed.stderr
    assert max(map(len, made.read_text().splitlines())) <= 80
    return made.read_text(), re.findall(r"^Version: (.*)\nDistribution: (.*)(?:\n.*)*?\nDate: (.*)$", parsed.stdout, re.M)


def test_every_place_says_the_same_version(tmp_path):
    assert RELEASES and RELEASES[0][0] == VERSION
    assert json.loads((ROOT / "deploy/openapi.json").read_text())["info"]["version"] == VERSION
    assert json.loads((ROOT / "examples/package.json").read_text())["version"] == VERSION
    assert re.findall(r'^version = "(.*)"$', (ROOT / "examples/pyproject.toml").read_text(), re.M) == [VERSION]
    said = subprocess.run([ROOT / "build/pgpoll.fcgi", "--version"], check=True, capture_output=True, text=True).stdout
    assert said == f"pgpoll.fcgi {VERSION}, for schema {SCHEMA_VERSION}\n"
    assert debian_changelog(tmp_path)[1][0][0] == VERSION


def test_the_changelog_goes_back_in_time():
    assert len(re.findall(r"^## ", CHANGELOG, re.M)) == len(RELEASES)
    versions = [tuple(map(int, version.split("."))) for version, _ in RELEASES]
    dates = [date for _, date in RELEASES]
    assert versions == sorted(set(versions), reverse=True) and "unreleased" not in dates[1:]
    assert dates[1:] == sorted(dates[1:], reverse=True)
    sections = set(re.findall(r"^### (.*)$", CHANGELOG, re.M))
    assert sections <= {"Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_debian_has_the_same_changelog(tmp_path):
    text, entries = debian_changelog(tmp_path)
    assert [(version, distribution) for version, distribution, _ in entries] == [(version, "unstable") for version, _ in RELEASES]
    assert [date for _, _, date in entries if "24 Nov 2026" in date] == ["Tue, 24 Nov 2026 00:00:00 +0000"]
    words = " ".join(re.sub(r"^(##.*|- )", "", CHANGELOG.partition("\n## ")[2], flags=re.M).split())
    for item in re.findall(r"^  \* (?:\w+: )?((?:.+\n)(?:    .+\n)*)", text, re.M):
        assert " ".join(item.split()) in words, item


# ---- a tarball

def test_the_tarball_builds_and_passes_unit_tests_without_git(tmp_path):
    if not shutil.which("git") or subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("this tree is not a git checkout")
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CI")}

    def run(*command, **options):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tarball = run("make", "-s", "-C", ROOT, "dist").strip()
    committed = re.search(r"^VERSION := (.*)$", run("git", "-C", ROOT, "show", "HEAD:Makefile"), re.M)[1]
    assert tarball == f"build/pgpoll-{VERSION}.tar.gz"
    run("tar", "-xf", ROOT / tarball, "-C", tmp_path)
    tree = tmp_path / f"pgpoll-{VERSION}"
    assert list(tmp_path.iterdir()) == [tree]

    (tmp_path / "git").write_text("#!/bin/sh\necho 'git is not here' >&2\nexit 1\n")
    (tmp_path / "git").chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    environment["GIT_DIR"] = "/nowhere"
    run("make", "-s", "-j2", "CFLAGS=-O1", "all", "unit-runner", cwd=tree)
    assert re.search(r"tests +(\d+) +\1 +\1 +0", run("build/tests/unit/run", cwd=tree))
    assert run("build/pgpoll.fcgi", "--version", cwd=tree).startswith(f"pgpoll.fcgi {committed}, ")


# ---- documents for developers

DOCUMENTS = "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"
OF_THE_WEB_SERVER = {"QUERY_STRING"}
# Finds where a function is defined: `name(` in any language.
FILES = [ROOT / "Makefile", *(path for directory in ("src", "fcgi", "sql", "tests", "examples") for path in (ROOT / directory).rglob("*")
                              if path.suffix in (".c", ".h", ".sql", ".py", ".mjs"))]
SOURCES = "\n".join(path.read_text() for path in FILES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_names_in_a_document_exist(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    functions = {name[1] for name in (re.fullmatch(r"(?:pgpoll\.)?(\w+)\([^()]*\)", part) for part in named) if name}
    paths = {part for part in named if re.fullmatch(r"(src|fcgi|sql|tests|deploy|examples|docs)(/[\w.@-]+)+/?", part)}
    constants = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text)) - OF_THE_WEB_SERVER
    missing = [name for name in functions if not re.search(rf"\b{name}\(", SOURCES)]
    missing += [name for name in constants if not re.search(rf"\b{name}\b", SOURCES)]
    missing += [path for path in paths if not (ROOT / path).exists()]
    missing += {part for part in named if re.fullmatch(r"\w+\.(c|h|sql|py)", part)} - {path.name for path in FILES}
    assert not missing, missing


@pytest.mark.parametrize("document", (*DOCUMENTS, "CHANGELOG.md"))
def test_links_of_a_document_work(document):
    text = (ROOT / document).read_text()

    def anchors(of):
        headings = re.findall(r"^#+ (.*)$", of.read_text(), re.M)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for target in re.findall(r"\]\(([^)]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists() if path else True, target
        assert not anchor or anchor in anchors(ROOT / (path or document)), target
