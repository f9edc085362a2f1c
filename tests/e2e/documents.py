"""The user's documents, README.md and docs/: their commands, their code and their links, for the tests that run and follow them."""
import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in PATHS}
TEXT = "\n".join(TEXTS.values())

# Without blocks of code, and without the comments behind commands.
COMMANDS = re.findall(r"^    (\S.*?)(?: +# .*|(?<=;) +-- .*)?$", re.sub(r"(?ms)^```.*?^```$", "", TEXT), re.M)


def commands(start):
    """The indented lines that start so."""
    return [line for line in COMMANDS if line.startswith(start)]


def command(start):
    """The only one."""
    (found,) = commands(start)
    return found


def blocks(language, text=TEXT):
    """The fenced blocks of code in this language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def asked_for(*tests):
    """What the modules ask command() and commands() for."""
    for path in tests:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", None) in ("command", "commands", "line"):
                yield from (argument.value for argument in call.args if isinstance(argument, ast.Constant))


def anchors(path):
    """Those that GitHub gives to the headings of a document."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.M)}


def broken_links(path):
    """Links to files and anchors that are not there."""
    text = re.sub(r"(?ms)^```.*?^```$|`[^`]*`", "", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)|\b(?:src|srcset|href)=\"([^\"]+)\"", text):
        target = "".join(target)
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        if not found.exists() or anchor and anchor not in anchors(found):
            yield f"{path}: {target}"
