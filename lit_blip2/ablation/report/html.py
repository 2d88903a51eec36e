"""A report's Markdown as one HTML file that needs nothing beside it: plots inside, light and dark, for any width."""

import base64
import html
import re
from collections.abc import Mapping

from markdown_it import MarkdownIt

from lit_blip2.ablation.report.plots.paper import DARK, LIGHT, Paper
from lit_blip2.terminal import printable


def to_html(markdown: str, title: str, plots: Mapping[str, tuple[bytes, bytes]]) -> str:
    """plots: PNGs on light and on dark paper, by the path that the Markdown shows them under. In the place of any other
    picture stands its text."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(self, tokens, index, options, env) -> str:
        token = tokens[index]
        pair = plots.get(token.attrs["src"])
        return html.escape(token.content) if pair is None else _picture(pair, token.content)

    reader.add_render_rule("image", image)
    body = reader.render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = re.sub(r"<td>(better|worse)</td>", r'<td class="\1">\1</td>', body)
    body = re.sub(r"(?<=<td>)<code>(.*?)</code>", lambda m: m[0].replace(",", ",<wbr>"), body)
    return PAGE.format(title=html.escape(printable(title)), style=_style(), body=body)


def _picture(pair: tuple[bytes, bytes], text: str) -> str:
    light, dark = ("data:image/png;base64," + base64.b64encode(png).decode() for png in pair)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    width = int.from_bytes(pair[0][16:20], "big") * 2 // 3  # of the PNG at 144 dots to the inch, in CSS's 96
    broad = ' class="broad"' if width > BROAD else ""
    return f'<picture{broad}>{source}<img src="{light}" width="{width}" alt="{html.escape(text)}"></picture>'


BROAD = 560  # pixels; broader plots are scrolled on a phone, not shrunk until nobody can read them
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""


def _style() -> str:
    def variables(paper: Paper, line: str, soft: str) -> str:
        names = dict(
            paper=paper.background,
            ink=paper.ink,
            faint=paper.faint,
            better=paper.colours[0],
            worse=paper.colours[1],
            line=line,
            soft=soft,
        )
        return ":root {" + "".join(f"--{name}: {value};" for name, value in names.items()) + "}"

    dark = "@media (prefers-color-scheme: dark) {" + variables(DARK, "#30363d", "#1f242b") + "}"
    return "\n" + variables(LIGHT, "#d8dde3", "#f4f6f8") + "\n" + dark + STYLE


STYLE = """
html { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; }
main { max-width: 66rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin-top: 2.2rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin-top: 1.6rem; }
main > p:first-child { font-size: .85rem; color: var(--faint); }
code, pre { font: .87em ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .25em; }
pre { padding: .7rem; overflow-x: auto; }
pre code { padding: 0; font-size: 1em; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid var(--worse); background: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; white-space: nowrap; }
td { white-space: nowrap; }
td:first-child { white-space: normal; min-width: 8rem; }
td.better { color: var(--better); font-weight: 600; }
td.worse { color: var(--worse); font-weight: 600; }
picture { display: inline-block; max-width: 100%; vertical-align: top; margin: .4rem 0; }
picture.broad { overflow-x: auto; }
img { max-width: 100%; height: auto; vertical-align: top; }
.broad img { max-width: max(100%, 38rem); }
"""
