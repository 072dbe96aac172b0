"""Settings of Sphinx: ``make docs`` builds the pages and checks their links."""

import geventpool

project = "geventpool"
author = "the geventpool developers"
version = release = geventpool.__version__

extensions = ["sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"geventpool {version}"
# Examples name their language. A block without one is text.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints = "none"

# Only links inside the documentation are checked: a build needs no network.
linkcheck_ignore = [r"https?://"]
