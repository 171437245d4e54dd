"""The cards of the gallery: a picture, a sentence, and the rows and parameters of each problem."""

import html
import re

from hig_optax import problems


def cards() -> str:
    """HTML, one card for each problem."""
    shown = [_card(name, problems.get(name)) for name in problems.PROBLEMS]
    return '<div class="gallery">\n' + "\n".join(shown) + "\n</div>"


def _card(name: str, problem: problems.Problem) -> str:
    said = (type(problem).__doc__ or "").strip().split("\n", 1)[0]
    text = re.sub(r"``?(.+?)``?", r"<code>\1</code>", html.escape(said))
    alt = html.escape(f"{name}: {said}")
    return (
        f'<div><img alt="{alt}" src="../pictures/gallery/{name}.png">'
        f"<p><strong>{name}</strong><br>{text}</p></div>"
    )
