"""A report's Markdown as one HTML file that needs nothing beside it: plots inside, light and dark, for any width."""

import base64
import html
import re
from collections.abc import Mapping

from markdown_it import MarkdownIt

from lit_blip2.ablation.report.plots.looks import GLYPHS, MARKERS, Look
from lit_blip2.ablation.report.plots.paper import DARK, LIGHT, Paper
from lit_blip2.terminal import printable


def to_html(
    markdown: str, title: str, plots: Mapping[str, tuple[bytes, bytes]], looks: Mapping[str, Look] | None = None
) -> str:
    """The HTML of a report. plots: path in the Markdown -> PNGs on light and on dark paper; any other picture is
    replaced by its text. looks: by setting; a setting's name in a code span gets the mark that it has in the plots."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    marks = {name: f' class="{_mark(look)}"' for name, look in (looks or {}).items()}

    def image(self, tokens, index, options, env) -> str:
        token = tokens[index]
        pair = plots.get(token.attrs["src"])
        return html.escape(token.content) if pair is None else _picture(pair, token.content)

    def code(self, tokens, index, options, env) -> str:
        """A code span, which may break after a comma or a slash."""
        text = tokens[index].content
        shown = html.escape(text).replace(",", ",<wbr>").replace("/", "/<wbr>")
        return f"<code{marks.get(text, '')}>{shown}</code>"

    reader.add_render_rule("image", image)
    reader.add_render_rule("code_inline", code)
    body = reader.render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = re.sub(r"<td>(better|worse)</td>", r'<td class="\1">\1</td>', body)
    body = re.sub(r"<th( [^>]*)?>([^<]{25,})</th>", r'<th class="long"\1>\2</th>', body)
    body = re.sub(r"(<th[^>]*><code>[^<]*?)/", r"\1/<wbr>", body)
    return PAGE.format(title=html.escape(printable(title)), style=_style(looks or {}), body=body)


def _mark(look: Look) -> str:
    return f"mark-{'ink' if look.colour is None else look.colour}-{MARKERS.find(look.marker)}"


def _picture(pair: tuple[bytes, bytes], text: str) -> str:
    light, dark = ("data:image/png;base64," + base64.b64encode(png).decode() for png in pair)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
    width = int.from_bytes(pair[0][16:20], "big") * 2 // 3  # of the PNG at 144 dots to the inch, in CSS's 96
    broad = ' class="broad"' if width > BROAD else ""
    return f'<picture{broad}>{source}<img src="{light}" width="{width}" alt="{html.escape(text)}"></picture>'


BROAD = 560  # pixels; broader plots scroll on a phone, because shrunk they could not be read
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


def _style(looks: Mapping[str, Look]) -> str:
    def variables(paper: Paper, more: Mapping[str, str]) -> str:
        colours = {f"mark-{place}": colour for place, colour in enumerate(paper.colours)}
        names = {"paper": paper.background, "ink": paper.ink, "faint": paper.faint, **colours, **more}
        return ":root {" + "".join(f"--{name}: {value};" for name, value in names.items()) + "}"

    marks = {
        f'code.{_mark(look)}::before {{ content: "{GLYPHS[look.marker]}"; '
        f"color: var(--{'ink' if look.colour is None else f'mark-{look.colour}'}); }}"
        for look in looks.values()
    }
    dark = "@media (prefers-color-scheme: dark) {" + variables(DARK, ON_DARK) + "}"
    return "\n".join(["", variables(LIGHT, ON_LIGHT), dark, *sorted(marks), STYLE])


# Verdicts have backgrounds too pale to be taken for a setting's colour.
ON_LIGHT = {"line": "#d8dde3", "soft": "#f4f6f8", "better": "#d9f0ea", "worse": "#fbe3d6"}
ON_DARK = {"line": "#30363d", "soft": "#1f242b", "better": "#12382f", "worse": "#4a2a17"}
STYLE = """
html { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
main > :is(p, ul, blockquote) { max-width: 62rem; }
main > p:has(picture) { max-width: none; }
h1 { font-size: 1.7rem; line-height: 1.2; }
h2 { font-size: 1.3rem; margin-top: 2.2rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin-top: 1.6rem; }
h3 code { font-size: 1em; font-weight: 600; }
main > p:first-child { font-size: .85rem; color: var(--faint); }
code, pre { font: .87em ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .25em; }
pre { padding: .7rem; overflow-x: auto; }
pre code { padding: 0; font-size: 1em; }
blockquote { margin: 1rem 0; padding: .1rem 1rem; border-left: 4px solid var(--ink); background: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom-width: 2px; vertical-align: bottom; white-space: nowrap; }
th:has(code) { white-space: normal; }
th.long { white-space: normal; width: 12rem; text-wrap: balance; }
td { white-space: nowrap; }
td:is(:first-child, :last-child) { white-space: normal; }
td:first-child { min-width: 8rem; }
td.better { background: var(--better); font-weight: 600; }
td.worse { background: var(--worse); font-weight: 600; }
code[class]::before { margin-right: .35em; font-family: sans-serif; }
picture { display: inline-block; max-width: 100%; vertical-align: top; margin: .4rem 0; }
picture.broad { overflow-x: auto; }
img { max-width: 100%; height: auto; vertical-align: top; }
.broad img { max-width: max(100%, 38rem); }
"""
