"""A web page in one file that loads nothing and runs its own few lines alone: texts stay texts, whatever they hold.

    body = [element("h1", "Scores"), element("p", "of ", element("code", name))]
    web_page("Scores", body) -> bytes

Elements are those of `xml.etree`, whose serialiser escapes texts and values of attributes. What could make one of them
run or load something is refused here; a Content-Security-Policy, which knows style and script by their hashes, would
keep a browser from it even so.
"""

import base64
import hashlib
from importlib.resources import files
from xml.etree.ElementTree import Element, tostring

from dnnlib.terminal import counted, printable

Child = Element | str | None

#: What style and script consist of is no text: these are made by `web_page` alone.
_OURS = frozenset({"script", "style", "link", "meta", "base", "iframe", "object", "embed", "form"})
_PICTURE = "data:image/png;base64,"
#: Characters of one text at most, and of one that is to be copied: browsers choke on megabytes of them.
LONGEST, LONGEST_CODE = 2000, 20000


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element. children: texts and elements in order; None is passed over. attributes: `class_` is `class`.

    Control characters of texts are written out, but line feeds; very long ones are cut, which is said. ValueError for
    what could run or load something.
    """
    if tag in _OURS:
        raise ValueError(f"<{tag}> is no element for a page's text")
    made = Element(tag)
    for name, value in attributes.items():
        name, text = name.rstrip("_").replace("_", "-"), _shown(str(value))
        if name.startswith("on") or name == "style":
            raise ValueError(f"attribute {name}: a page's script and style stand in one place")
        if name in ("href", "src") and not text.startswith(("#", _PICTURE)):
            raise ValueError(f"{name}={text[:80]!r}: a page links to its own parts alone, and holds its pictures")
        made.set(name, text)
    for child in children:
        _add(made, child)
    return made


def _add(parent: Element, child: Child) -> None:
    if child is None:
        return
    if isinstance(child, Element):
        parent.append(child)
        return
    text = _shown(_cut(child, LONGEST_CODE if parent.tag in ("pre", "code") else LONGEST))
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({counted(len(text) - most, 'more character', ',')})"


def _shown(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def picture(png: bytes, alt: str, **attributes: object) -> Element:
    """An image of a page. png: the file. alt: what is said to those who do not see it."""
    return element("img", src=_PICTURE + base64.b64encode(png).decode(), alt=alt, **attributes)


def web_page(title: str, body: list[Element]) -> bytes:
    """The page as UTF-8, its bytes a function of these. The style is that of `web_page.css` beside this file."""
    style, script = (files(__package__).joinpath(f"web_page.{suffix}").read_text("utf-8") for suffix in ("css", "js"))
    policy = "; ".join(
        ["default-src 'none'", "img-src data:", f"style-src {_hash(style)}", f"script-src {_hash(script)}",
         "base-uri 'none'", "form-action 'none'"]
    )  # fmt: skip
    head = Element("head")
    for attributes in (
        {"charset": "utf-8"},
        {"http-equiv": "Content-Security-Policy", "content": policy},
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
        {"name": "color-scheme", "content": "light dark"},
    ):
        head.append(Element("meta", attributes))
    head.append(element("title", title))
    _own(head, "style", style)
    main = element("body", element("main", *body))
    _own(main, "script", script)
    html = Element("html", {"lang": "en"})
    html.extend([head, main])
    text: bytes = tostring(html, encoding="utf-8", method="html")
    return b"<!DOCTYPE html>\n" + text + b"\n"


def _own(parent: Element, tag: str, text: str) -> None:
    made = Element(tag)
    made.text = text
    parent.append(made)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
