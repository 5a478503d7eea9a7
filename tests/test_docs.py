"""The pages and their links, with and without the site."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "edm2_guidance/pretrained/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"(?<!\\)\]\(<?([^)>\s]+)>?\)")


def prose(path):
    """A page without its code."""
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.M | re.S)


def anchors(path):
    """Of its headings, as GitHub and MyST name them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link}: no such file"  # folders have no page on the site
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_in_the_site_and_the_guide():
    index = (ROOT / "docs" / "index.md").read_text()
    trees = re.findall(r"^```{toctree}\n(?::[^\n]*\n)*(.*?)^```", index, re.M | re.S)
    in_site = {name for tree in trees for name in tree.split()}
    in_guide = {link.removesuffix(".md") for link in LINK.findall(index) if link.endswith(".md") and "/" not in link}
    pages = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert pages == {name for name in in_site if "/" not in name}
    assert pages - {"datasets"} == in_guide
    assert all((ROOT / "docs" / f"{name}.md").is_file() for name in in_site)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 130


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.stem)
def test_pages_begin_with_something_to_look_at(page):
    lines = page.read_text().splitlines()[:16]
    assert any(line.startswith(("|", "![", "```", "    ")) for line in lines), (
        "a table, a picture, a command or a drawing"
    )


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="make docs installs it")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-c", "docs", ".", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "docs" / "sampling.html").is_file()
