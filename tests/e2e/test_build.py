"""What make does if a library is missing. Only the linker is replaced, by one that does not find the library; the objects that are already built
are used."""
import os
import pathlib
import shutil
import subprocess

import pytest

from server import ROOT

# "$1" of the real linker; the library; another part of the command in which it is missing ("": every command).
LINKER = """#!/bin/sh
case " $* " in
*' -l{library} '*)
    case " $* " in
    *'{only}'*) echo 'ld: cannot find -l{library}: No such file or directory' >&2; exit 1 ;;
    esac ;;
esac
exec {linker} "$@"
"""


@pytest.fixture
def build(tmp_path):
    """make(program) builds the program again from a copy of the built objects. Returns the exit code and the output."""
    shutil.copytree(ROOT / "build", tmp_path / "build", ignore=shutil.ignore_patterns("address*", "thread", "fuzzer*", "dynamic", "npm", "deb", "tests"))

    def make(program, library=None, only="", **settings):
        (tmp_path / "build" / program).unlink(missing_ok=True)
        variables = []
        if library:
            path = subprocess.run(["gcc", "-print-prog-name=ld"], check=True, capture_output=True, text=True).stdout.strip()
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / "ld").write_text(LINKER.format(library=library, only=only, linker=shutil.which(path)))
            (tmp_path / "bin" / "ld").chmod(0o755)
            variables = [f"CC=gcc -B{tmp_path}/bin/"]
        done = subprocess.run(["make", f"BUILD={tmp_path}/build", *variables, f"{tmp_path}/build/{program}"],
                              cwd=ROOT, env={**environment(), **settings}, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    make.path = tmp_path / "build"
    return make


def environment():
    """Our environment without the variables of the make that runs the tests."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CC")}


def dynamic_libraries(program: pathlib.Path):
    return subprocess.run(["readelf", "-d", program], check=True, capture_output=True, text=True).stdout.count("(NEEDED)")


def runs(program):
    """Whether the program reaches our own code."""
    done = subprocess.run([program], capture_output=True, text=True, timeout=20)
    return done.returncode == 1 and done.stderr.startswith("pgpoll-worker: ")


def test_a_worker_is_static_and_its_link_warns_of_nothing(build):
    code, output = build("pgpoll-worker")
    assert code == 0 and "LINK" in output and "warning" not in output and "NOTE" not in output, output
    assert dynamic_libraries(build.path / "pgpoll-worker") == 0 and runs(build.path / "pgpoll-worker")


@pytest.mark.parametrize("library", ["fcgi", "json-c"])
def test_without_a_static_library_the_worker_uses_shared_ones_and_make_says_so(build, library):
    code, output = build("pgpoll-worker", library=library, only=" -static ")
    assert code == 0, output
    assert f"linked with shared libraries: no static library for -l{library} " in output and f"lib{library}-dev" in output, output
    assert dynamic_libraries(build.path / "pgpoll-worker") > 0 and runs(build.path / "pgpoll-worker")


@pytest.mark.parametrize("program", ["pgpoll-worker", "pgpoll.fcgi"])
def test_without_a_library_make_fails_and_names_the_package(build, program):
    code, output = build(program, library="fcgi")
    assert code != 0 and "libfcgi-dev" in output and "make packages" in output, output
    assert not (build.path / program).exists()


def test_without_pkg_config_files_make_fails_and_names_the_packages(build):
    (build.path / "src/api/cursor.o").unlink()
    code, output = build("pgpoll.fcgi", PKG_CONFIG_LIBDIR="/nowhere")
    assert code != 0 and "libjson-c-dev" in output and "libpq-dev" in output, output


@pytest.mark.parametrize("program", ["pgpoll-worker", "pgpoll.fcgi"])
def test_a_function_that_is_missing_fails_the_link(build, program):
    """Earlier, that built a program that crashed."""
    subprocess.run(["gcc", "-x", "c", "-c", "-o", build.path / "fcgi/http.o", "-"], input="", text=True, check=True)
    code, output = build(program)
    assert code != 0 and "undefined reference" in output and "http_send" in output, output
    assert not (build.path / program).exists()


def test_an_old_libpq_is_refused(build, tmp_path):
    """Debian 11 has this version."""
    (tmp_path / "json-c.pc").write_text("Name: json-c\nDescription: x\nVersion: 0.15\nLibs: -ljson-c\n")
    (tmp_path / "libpq.pc").write_text("Name: libpq\nDescription: x\nVersion: 13.23\nLibs: -lpq\n")
    (build.path / "src/api/cursor.o").unlink()
    code, output = build("pgpoll.fcgi", PKG_CONFIG_LIBDIR=str(tmp_path))
    assert code != 0 and "libpq >= 14" in output and "13.23" in output, output


def test_a_32_bit_system_is_refused():
    done = subprocess.run(["gcc", "-m32", "-fsyntax-only", "-x", "c", ROOT / "src/core/platform.h"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "pgpoll needs a 64-bit system" in done.stderr
