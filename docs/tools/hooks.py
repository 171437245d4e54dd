"""What mkdocs does not do by itself: formulas as MathML, a page per recipe, tables for narrow screens."""

import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import gallery

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
WITHOUT_ALT = 'alt="No description has been provided for this image"'

_INCLUDE = re.compile(r"<!-- include (\S+)(?: (\S+))? -->")
# The ways in which formulas stand in a page: those of arithmatex, and those of notebook cells.
_MARKED = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_CELL = re.compile(r'(<div[^>]*class="[^"]*jp-RenderedMarkdown.*?</div>)', re.DOTALL)
_DOLLARS = re.compile(r"\$\$(.+?)\$\$|\$([^$]+?)\$", re.DOTALL)
_PROSE = re.compile(r"<(p|li)\b.*?</\1>", re.DOTALL)
_TABLE = re.compile(r"<table.*?</table>", re.DOTALL)
_CELLS = re.compile(r"(?<=>)[^<>]+(?=<)")  # the text between tags
_NUMBER = re.compile(r"(?<![\w.])\d[\d.]*e[+-]\d+")


def on_config(config: Any) -> Any:
    """Name the recipes in the navigation: their pages are made from the scripts."""
    (how_to,) = (item["How to"] for item in config.nav if "How to" in item)
    (recipes,) = (item["Recipes"] for item in how_to if "Recipes" in item)
    recipes += [{title(path): f"recipes/{path.stem}.md"} for path in scripts()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Make a page of each recipe."""
    for path in scripts():
        _, words, code = path.read_text().split('"""', 2)
        text = f"# {title(path)}\n\n{words.strip()}\n\n```python\n{code.strip()}\n```\n"
        files.append(File.generated(config, f"recipes/{path.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Put in what a page asks for: parts of files at the top of the repository, the recipes, the gallery."""
    del config, files
    markdown = _INCLUDE.sub(lambda found: part(found[1], found[2]), markdown)
    rows = [f"| [{title(path)}](recipes/{path.stem}.md) | {said(path)} |" for path in scripts()]
    markdown = markdown.replace(
        "<!-- recipes -->", "\n".join(["| recipe | what it shows |", "|---|---|", *rows])
    )
    if "<!-- gallery -->" in markdown:
        markdown = markdown.replace("<!-- gallery -->", gallery.cards())
    if page.file.src_uri.startswith("notebooks/"):  # whose links are those of the repository
        markdown = re.sub(r"\]\(\.\./docs/", "](../", markdown)
    return markdown


def part(path: str, name: str | None) -> str:
    """A file of the repository, or what stands between ``<!-- part: NAME -->`` and the end of it."""
    text = (ROOT / path).read_text()
    if name:
        text = text.split(f"<!-- part: {name} -->\n", 1)[1].split("<!-- end -->", 1)[0]
    return re.sub(r"\]\((?:docs/)([\w/.#-]+)\)", r"](\1)", text)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Formulas as MathML, names of columns on cells, descriptions on the pictures of notebooks."""
    del config
    output = _MARKED.sub(lambda m: mathml(m[3], m[2] == "["), output)
    output = _CELL.sub(lambda cell: _DOLLARS.sub(_of_dollars, cell[0]), output)
    output = _PROSE.sub(lambda prose: whole_numbers(prose[0]), output)
    output = _TABLE.sub(lambda table: labelled(table[0]), output)
    if page.file.src_uri.endswith(".ipynb"):
        for alt in descriptions(Path(page.file.abs_src_path)):
            output = output.replace(WITHOUT_ALT, f'alt="{html.escape(alt)}"', 1)
    return output


def mathml(tex: str, is_block: bool) -> str:
    """A formula that a browser sets without a script; a block breaks where it has a wide space."""
    text = html.unescape(tex).strip()
    if not is_block:
        return convert(text)
    parts = [convert(part, display="block") for part in re.split(r"\\q?quad", text)]
    return '<div class="formula">' + "".join(f"<span>{part}</span> " for part in parts) + "</div>"


def _of_dollars(found: re.Match) -> str:
    return mathml(found[1] or found[2], found[1] is not None)


def whole_numbers(text: str) -> str:
    """The text with numbers like 1e-5 that do not break at the sign."""
    return _CELLS.sub(lambda part: _NUMBER.sub(r'<span class="number">\g<0></span>', part[0]), text)


def labelled(table: str) -> str:
    """The table with the name of its column on each cell, and numbers that do not break."""
    table = whole_numbers(table)
    names = [
        re.sub("<.*?>", "", name).strip()
        for name in re.findall(r"<th\b[^>]*>(.*?)</th>", table, re.DOTALL)
    ]

    def row(found: re.Match) -> str:
        columns = iter(names)
        return re.sub(
            r"<td\b",
            lambda _: f'<td data-column="{html.escape(html.unescape(next(columns, "")))}"',
            found[0],
        )

    return re.sub(r"<tr\b.*?</tr>", row, table, flags=re.DOTALL)


def descriptions(notebook: Path) -> list[str]:
    """What the pictures of a notebook show: `alt` in the metadata of the cells that draw."""
    cells = json.loads(notebook.read_text())["cells"]
    return [cell["metadata"]["alt"] for cell in cells if "alt" in cell["metadata"]]


def scripts() -> list[Path]:
    """The recipes."""
    return sorted(RECIPES.glob("*.py"))


def said(path: Path) -> str:
    """What a script shows, in its first sentence."""
    return path.read_text().split('"""', 2)[1].strip().split("\n\n")[0]


def title(path: Path) -> str:
    """The name of a recipe, as words."""
    return path.stem.replace("_", " ")
