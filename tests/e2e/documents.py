"""Reads README.md and docs/: their commands, code and links, which the tests run and follow."""
import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS}
TEXT = "\n".join(TEXTS.values())

# The types of all metrics, by name: those of the database, and those that a host knows itself.
METRICS = {f"pgpoll_{name}": kind for name, kind in
           [*re.findall(r"^    \(\d+, '(\w+)', '(counter|gauge|histogram)'", (ROOT / "sql/functions/metrics.sql").read_text(), re.M),
            *((name, "gauge") for name in re.findall(r'put_gauge\(\s*stream, [\w>-]+,\s+"(\w+)"', (ROOT / "src/shared/host_metrics.c").read_text()))]}

# Code blocks and the comments after commands are left out.
COMMANDS = re.findall(r"^    (\S.*?)(?: +# .*|(?<=;) +-- .*)?$", re.sub(r"(?ms)^```.*?^```$", "", TEXT), re.M)


def commands(start):
    """Returns the indented lines that start with this text."""
    return [line for line in COMMANDS if line.startswith(start)]


def command(start):
    """Returns the only such line."""
    (found,) = commands(start)
    return found


def blocks(language, text=TEXT):
    """Returns the fenced code blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


SHOWN = "".join(blocks("text", TEXTS["docs/troubleshooting.md"])).splitlines()


def shown(start):
    """Returns a regular expression for the only line that docs/troubleshooting.md shows and that starts with this text."""
    (found,) = [line for line in SHOWN if line.startswith(start)]
    return ".*".join(map(re.escape, found.split("…")))


def asked_for(*tests, names=("command", "commands", "line")):
    """Returns the arguments that test modules pass to functions of this module."""
    for path in tests:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) in names:
                yield from (argument.value for argument in call.args if isinstance(argument, ast.Constant))


def anchors(path):
    """Returns the anchors that GitHub generates for the headings of a document."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)}


def broken_links(path):
    """Returns the links whose file or anchor does not exist."""
    text = re.sub(r"(?ms)^```.*?^```$|`[^`]*`", "", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"", text):
        target = "".join(target)
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        if not found.exists() or anchor and anchor not in anchors(found):
            yield f"{path}: {target}"
