"""Pages taken apart, for tests of any room: their elements and texts, and that they neither load nor run anything."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files

_LOADING = {"link", "base", "iframe", "object", "embed", "form", "audio", "video", "use", "image", "foreignobject"}
_VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """elements: (tag, attributes) in order. texts: what stands between them, style and script apart. own: these two."""

    def __init__(self, data: bytes):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.own, self._open = [], [], {}, []
        self.feed(data.decode())
        self.close()
        assert self._open == []  # every element is closed

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("style", "script"):
            self.own[self._open[-1]] = self.own.get(self._open[-1], "") + data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def said(self, tag: str, name: str) -> list[str]:
        """The values of an attribute of all such elements."""
        return [attributes[name] for each, attributes in self.elements if each == tag and name in attributes]


def checked_page(data: bytes) -> Page:
    """The page, which loads nothing, and runs its own script alone."""
    page = Page(data)
    for suffix, tag in (("css", "style"), ("js", "script")):
        known = files("dnnlib").joinpath(f"web_page.{suffix}").read_text("utf-8")
        assert page.own[tag] == known
        assert sum(each == tag for each, _ in page.elements) == 1
        digest = base64.b64encode(hashlib.sha256(known.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page.said("meta", "content")[0]
        assert "url(" not in known
        assert "http" not in known
    assert page.said("meta", "content")[0].startswith("default-src 'none'; img-src data:; ")
    assert not {tag for tag, _ in page.elements} & _LOADING
    for tag, attributes in page.elements:
        names = set(attributes)
        assert not {name for name in names if name.startswith("on")} | names & {"style", "srcset", "formaction"}
        assert "href" not in names or (tag == "a" and re.fullmatch(r"#[a-z-]+", attributes["href"]))
        assert "src" not in names or (tag == "img" and attributes["src"].startswith("data:image/png;base64,"))
        assert tag != "img" or attributes["alt"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in page.said("a", "href")} <= set(ids)
    return page
