"""Settings of the documentation site: uv run --group docs sphinx-build -W docs docs/_build."""

from pathlib import Path

from esper import __version__
from esper.karn.reports.telemetry_docs import telemetry_page

project = "Esper"
author = "Esper contributors"
copyright = "2026, Esper contributors"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxarg.ext",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Esper {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# The page of telemetry records is made from the records, at every build.
Path(__file__).with_name("reference").joinpath("telemetry.md").write_text(
    telemetry_page(), encoding="utf-8"
)
