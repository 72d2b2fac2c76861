"""The funnel as a table, as JSON and as a page."""

import json
from pathlib import Path

import jinja2

from data_pipelines.documents import write_whole
from data_pipelines.web.funnel import SIZES

PAGE = jinja2.Environment(autoescape=True, trim_blocks=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>From crawl to documents</title>
<style>
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
tr:nth-child(2) th { text-align: right; position: static; }
.share { min-width: 9rem; font-size: .85em; text-align: left; }
.bar { background: #3b82f6; height: .4rem; min-width: 1px; border-radius: 2px; }
.where { margin: .6rem 0 0; font-size: .85em; overflow-wrap: anywhere; }
h3 { margin: 1rem 0 .2rem; }
blockquote { margin: .4rem 0 .8rem; padding-left: .8rem; border-left: 3px solid #8886; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: .9em; }
summary { cursor: pointer; padding: .2rem 0; }
</style>
<h1>From crawl to documents</h1>
<p>{{ "{:,}".format(first) }} pages entered, {{ "{:,}".format(last) }} documents are left. A token is a word or a mark;
HTML has none yet.</p>
<div class="wide"><table>
<tr><th rowspan="2">step<th colspan="3">documents<th colspan="2">MB<th colspan="2">tokens
<th rowspan="2">of all pages</tr>
<tr><th>in<th>out<th>dropped<th>in<th>out<th>in<th>out</tr>
{% for s in steps %}
<tr><td>{{ s.name }}
{% for count in (s.in.documents, s.out.documents, s.dropped) %}<td>{{ "{:,}".format(count) }}{% endfor %}
{% for side in (s.in, s.out) %}<td>{{ "%.2f"|format(side.bytes / 1e6) }}{% endfor %}
{% for side in (s.in, s.out) %}<td>{{ "{:,}".format(side.tokens) if side.tokens else "–" }}{% endfor %}
{% set share = 100 * s.out.documents / (first or 1) %}
<td class="share"><div class="bar" style="width: {{ share }}%"></div>{{ "%.1f"|format(share) }} %</tr>
{% endfor %}
</table></div>
<h2>What was dropped, and why</h2>
{% for s in steps if s.reasons %}
<h3>{{ s.name }}</h3>
{% for reason, count in s.reasons|dictsort(by="value", reverse=true) %}
<details><summary>{{ reason }}: {{ "{:,}".format(count) }}</summary>
{% for e in s.examples[reason] %}
<p class="where">{{ e.where }}</p>{% if e.text %}<blockquote>{{ e.text }}</blockquote>{% endif %}
{% endfor %}
</details>
{% endfor %}
{% endfor %}
</html>
""")


def complete(steps: list[dict]) -> list[dict]:
    """Steps with every size, and what each dropped."""
    full = [{**s, **{side: {size: s[side].get(size, 0) for size in SIZES} for side in ("in", "out")}} for s in steps]
    return [{**s, "dropped": s["in"]["documents"] - s["out"]["documents"]} for s in full]


def write(output: Path, steps: list[dict]) -> None:
    steps = complete(steps)
    ends = {"first": steps[0]["in"]["documents"], "last": steps[-1]["out"]["documents"]}
    write_whole(output / "funnel.json", json.dumps({"steps": steps}, indent=1))
    write_whole(output / "funnel.html", PAGE.render(steps=steps, **ends))


def table(steps: list[dict]) -> str:
    lines = [f"{'step':20}{'in':>9}{'out':>9}{'dropped':>9}  why"]
    for s in complete(steps):
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(s["reasons"].items(), key=lambda r: -r[1])[:3])
        lines.append(f"{s['name']:20}{s['in']['documents']:9,}{s['out']['documents']:9,}{s['dropped']:9,}  {why}")
    return "\n".join(lines)
