"""A result as a table for the terminal, for docs/benchmarks.md, and as a page with pictures."""
import html
import json
import pathlib
import re
import statistics

RESULTS = pathlib.Path(__file__).with_name("results")
KEPT_TABLE = re.compile(r"(?s)(<!-- make bench KEEP=NAME writes this -->\n).*(<!-- end -->\n)")
OURS = "#2869c7"
COLOURS = {"no database": "#8b949e", "bare NOTIFY": "#7c3aed", "Nchan": "#d97706", "plain INSERT": "#8b949e", "INSERT + NOTIFY": "#7c3aed",
           "few messages": "#8b949e", "1 topic each": "#8b949e"}

SYSTEMS = ("“No database” is what one process per poll behind the same lighttpd can do at best: it waits on an eventfd and answers from memory. "
           "“Bare NOTIFY” is the same, told by the NOTIFY of a transaction that INSERTs: the least that a database adds, without positions, order or a second try. "
           "Nchan keeps its messages in nginx's memory, and loses them with it. It and “no database” are published to by POST.")

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>pgpoll, measured</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 860px; margin: 2em auto; padding: 0 1em; }}
svg {{ width: 100%; height: auto; font: 12px system-ui, sans-serif; }}
svg text {{ fill: currentColor; }}
h2 {{ font-size: 1em; margin: 2.5em 0 .5em; }}
.note {{ opacity: .7; }}
pre {{ font-size: 12px; overflow-x: auto; }}
</style>
<h1>pgpoll {version}, measured</h1>
<p>{about}</p>
<p>{systems}</p>
{parts}
</html>
"""


def last_kept():
    """The newest result in the repository, or None."""
    kept = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    return max(kept, key=lambda result: result["date"], default=None)


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cell(values):
    """Median and range."""
    if not values:
        return ""
    middle, low, high = (number(f(values)) for f in (statistics.median, min, max))
    return middle if len(values) == 1 else f"{middle} ({low}–{high})"


def about(result):
    m = result["machine"]
    return (f"{result['date']}, {m['cpus']} × {m['cpu']}, {m['memory_gib']} GiB, Linux {m['kernel']}, {m['filesystem']}, PostgreSQL {m['postgresql']} "
            f"as installed, lighttpd {m['lighttpd']}" + (f", nginx {m['nginx']}" if m["nginx"] else "")
            + f". Medians (lowest–highest) of {result['rounds']} round{'s' * (result['rounds'] > 1)}. "
            + f"Of {result['deliveries']:,} deliveries none was lost, doubled or out of order. " * (result["deliveries"] > 0)
            + " ".join(result["notes"])).strip()


def systems_of(table):
    return list(dict.fromkeys(name for row in table["rows"].values() for name in row))


def text(result, kept):
    """kept: with pgpoll's medians of then."""
    lines = []
    for name, table in result["tables"].items():
        columns = systems_of(table)
        then = kept["tables"].get(name, {}).get("rows", {}) if kept else {}
        rows = [["", *columns, *([f"pgpoll {kept['version']}"] if then else [])]]
        for row, cells in table["rows"].items():
            was = then.get(row, {}).get("pgpoll")
            rows.append([row, *(cell(cells.get(column)) for column in columns), *([number(statistics.median(was)) if was else ""] if then else [])])
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines += ["", f"{table['title']} ({table['unit']}, {table['better']} is better)"]
        lines += ["  " + "   ".join(value.ljust(width) for value, width in zip(row, widths)).rstrip() for row in rows]
    lines += ["", about(result)]
    return "\n".join(lines[1:])


def markdown(result):
    """The table of docs/benchmarks.md."""
    if not result:
        return "Nothing is kept yet.\n"
    lines = ["| | pgpoll | beside it, in the same run | |", "| --- | --- | --- | --- |"]
    for table in result["tables"].values():
        lines.append(f"| **{table['title']}**, {table['unit']} | | | `make bench BENCH={table['part']}` |")
        for row, cells in table["rows"].items():
            others = "; ".join(f"{name} {cell(values)}" for name, values in cells.items() if name != "pgpoll")
            lines.append(f"| {row} | {cell(cells.get('pgpoll'))} | {others} | |")
    return "\n".join([f"**pgpoll {result['version']}**, {about(result)} {SYSTEMS}", "", *lines]) + "\n"


def chart(table):
    """Bars of medians, from 0, with lines over the ranges."""
    bar, left, width = 16, 250, 860
    top = max(max(values) for row in table["rows"].values() for values in row.values()) or 1
    scale = (width - left - 190) / top
    y, parts = 4, []
    for row, cells in table["rows"].items():
        for index, (name, values) in enumerate(cells.items()):
            middle, low, high = statistics.median(values), min(values), max(values)
            label = f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(row)}</text>' if index == 0 else ""
            parts.append(f'{label}<rect x="{left}" y="{y + 1}" width="{max(middle, 0) * scale:.1f}" height="{bar - 2}" fill="{COLOURS.get(name, OURS)}">'
                         f"<title>{html.escape(f'{name}: {cell(values)}')}</title></rect>"
                         f'<path d="M{left + low * scale:.1f} {y + bar / 2}H{left + high * scale:.1f}" stroke="currentColor" stroke-width="1.5"/>'
                         f'<text x="{left + max(high, 0) * scale + 8:.1f}" y="{y + 12}">{cell(values)}</text>')
            y += bar
        y += 10
    legend = "".join(f'<span style="color:{COLOURS.get(name, OURS)}">■</span> {html.escape(name)} &ensp;' for name in systems_of(table))
    return f'<div>{legend}</div><svg viewBox="0 0 {width} {y}" role="img" aria-label="{html.escape(table["title"])}">{"".join(parts)}</svg>'


def page(result, kept):
    parts = "".join(f"<h2>{html.escape(table['title'])} <span class=note>({table['unit']}, {table['better']} is better)</span></h2>\n{chart(table)}\n"
                    for table in result["tables"].values())
    return PAGE.format(version=result["version"], about=html.escape(about(result)), systems=SYSTEMS,
                       parts=f"{parts}<h2>As text</h2><pre>{html.escape(text(result, kept))}</pre>")


def as_json(result):
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def keep(result, name, document):
    """Puts a result into the repository, and its table into docs/benchmarks.md, which is document."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['version']}-{name}.json"
    path.write_text(as_json(result))
    document.write_text(KEPT_TABLE.sub(lambda block: block[1] + markdown(result) + block[2], document.read_text()))
    return path
