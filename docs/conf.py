"""The site: `make docs`. The pages are Markdown that reads as well without it; sources are the project's folder."""

project = "edm2-guidance"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/gallery/*.md",
    "examples/README.md",
    "edm2_guidance/pretrained/README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
html_copy_source = False
