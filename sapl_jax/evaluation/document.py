"""Renders a report's sections as Markdown with picture files or as one self-contained page."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Table(NamedTuple):
    """A table of a report.

    emphasised: indices of rows to stress (ours, among published ones). names: how many columns from
    the left hold names, not numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    emphasised: frozenset[int] = frozenset()
    names: int = 1


class Picture(NamedTuple):
    """A picture of a report; png: bytes of the file `name`.png, or of a JPEG, on a page alone."""

    name: str
    png: bytes
    caption: str


Part = str | Table | Picture | list[str]  # a paragraph, a table, a picture, a list


class Section(NamedTuple):
    """A heading and what stands under it, in order."""

    heading: str
    parts: Sequence[Part]


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The report as Markdown; pictures are referred to as `figures/<name>.png`."""
    lines = [f"# {title}", ""]
    for section in sections:
        lines += [f"## {section.heading}", ""]
        for part in section.parts:
            if isinstance(part, str):
                lines.append(_plain(part))
            elif isinstance(part, list):
                lines += [f"- {_plain(item)}" for item in part]
            elif isinstance(part, Table):
                lines += _markdown_table(part)
            else:
                lines += [f"![{_plain(part.caption)}](<figures/{part.name}.png>)", ""]
                lines.append(f"*{_plain(part.caption)}*")
            lines.append("")
    return "\n".join(lines)


def _plain(text: str) -> str:
    # Underscores and stars in file names must not turn into emphasis.
    return re.sub(r"[\\*_<>|\[\]]", r"\\\g<0>", text)


def _markdown_table(table: Table) -> list[str]:
    stressed = [
        [f"**{cell}**" if cell and n in table.emphasised else cell for cell in map(_plain, row)]
        for n, row in enumerate(table.rows)
    ]
    rule = ["---"] * table.names + ["---:"] * (len(table.header) - table.names)
    rows = [[*map(_plain, table.header)], rule, *stressed]
    return [f"| {' | '.join(row)} |" for row in rows]


_STYLE_SHEET = Path(__file__).parents[1] / "assets" / "report.css"


def to_html(title: str, sections: Sequence[Section], columns: int = 1) -> str:
    """The report as one HTML page with its pictures inside; it loads nothing from anywhere.

    columns: 2 puts pictures side by side where the page is wide.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<section><h2>{html.escape(section.heading)}</h2>")
        body += [_html_part(part) for part in section.parts]
        body.append("</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE_SHEET.read_text()}</style>\n</head>\n"
        f'<body class="columns-{columns}">\n' + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _html_part(part: Part) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    if isinstance(part, list):
        return f"<ul>{''.join(f'<li>{html.escape(item)}</li>' for item in part)}</ul>"
    if isinstance(part, Picture):
        caption, data = html.escape(part.caption), base64.b64encode(part.png).decode("ascii")
        kind = "jpeg" if part.png.startswith(b"\xff\xd8") else "png"
        return (
            f'<figure><img alt="{caption}" src="data:image/{kind};base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="name"' if i < part.names else "" for i in range(len(row))]
        texts = ((kind, html.escape(cell)) for kind, cell in zip(kinds, row, strict=True))
        # An interval stands below its number, so that all measures fit on a page.
        texts = ((kind, text if kind else text.replace(" [", "<br>[", 1)) for kind, text in texts)
        return "".join(f"<{tag}{kind}>{text}</{tag}>" for kind, text in texts)

    rows = []
    for index, row in enumerate(part.rows):
        kind = ' class="ours"' if index in part.emphasised else ""
        rows.append(f"<tr{kind}>{cells('td', row)}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", part.header)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
