"""Pages whose texts stay texts."""

import pytest

from dnnlib.web_page import element, picture, web_page
from tests.pictures import encoded
from tests.pictures import picture as image
from tests.web_pages import checked_page

EVIL = [
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "\"'><svg onload=x>",
    "&lt;b&gt;",
    "]]>",
]


def test_texts_and_values_come_back_as_they_were():
    body = [element("p", text, title=text) for text in EVIL] + [element("pre", "\n".join(EVIL))]
    page = checked_page(web_page(EVIL[1], body))
    assert [page.texts.count(text) for text in EVIL[:1] + EVIL[2:]] == [1] * 4
    assert page.said("p", "title") == EVIL
    assert "\n".join(EVIL) in page.texts
    assert [tag for tag, _ in page.elements if tag in ("img", "svg", "b")] == []
    assert page.texts.count(EVIL[1]) == 2  # the title, too


def test_children_stand_in_their_order_and_control_characters_are_written_out():
    children = ["a", element("b", "c"), "d", None, element("i"), "e\x1b\u202e\udcff\n"]
    made = element("p", *children, class_="x", aria_label=1)
    data = web_page("t", [made])
    assert b'<p class="x" aria-label="1">a<b>c</b>d<i></i>e\\x1b\\u202e\\udcff\n</p>' in data
    assert web_page("t", [made]) == data


def test_pictures_are_part_of_the_page():
    png = encoded(image(0))
    page = checked_page(web_page("t", [picture(png, "a digit")]))
    (source,) = page.said("img", "src")
    assert source.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("tag", ["script", "style", "link", "iframe", "form"])
def test_elements_that_could_run_or_load_are_refused(tag):
    with pytest.raises(ValueError, match=tag):
        element(tag)


@pytest.mark.parametrize(
    "attributes",
    [{"onclick": "x"}, {"style": "x"}, {"href": "javascript:x"}, {"href": "https://x"}, {"src": "data:text/html,x"}],
)
def test_attributes_that_could_run_or_load_are_refused(attributes):
    with pytest.raises(ValueError, match=next(iter(attributes))):
        element("a", **attributes)


def test_very_long_texts_are_cut_and_say_so():
    long, code = element("p", "a" * 5000, element("b", "x"), "c" * 2001), element("pre", "b" * 30000)
    assert long.text == "a" * 2000 + " ... (3,000 more characters)"
    assert long[0].tail == "c" * 2000 + " ... (1 more character)"
    assert code.text == "b" * 20000 + " ... (10,000 more characters)"
    assert element("p", "a" * 2000).text == "a" * 2000
