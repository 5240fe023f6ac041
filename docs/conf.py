"""The configuration of Sphinx, for `make site` (site_builder), which prepares the pages first."""

from ctllm import __version__

project = "ctllm"
author = "The ctllm developers"
copyright = "The ctllm developers, MIT licence"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_static", "_templates"]
# Anchors as forges make them, so that the same links work there.
myst_heading_anchors = 6
# The lines of the examples are not always in the language of the block: they may have an ellipsis.
suppress_warnings = ["misc.highlighting_failure"]
highlight_language = "text"
nitpicky = True

html_theme = "furo"
html_title = "ctllm"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
templates_path = ["_templates"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "site-links.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
_LIGHT = {
    "font-stack": "system-ui, sans-serif",
    "font-stack--monospace": 'ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace',
    "color-brand-primary": "#0d6e66",
    "color-brand-content": "#0d6e66",
    "color-brand-visited": "#0d6e66",
    "color-background-primary": "#ffffff",
    "color-background-secondary": "#f6f6f3",
    "color-foreground-primary": "#1f2523",
    "color-foreground-secondary": "#5a635f",
    "color-foreground-muted": "#5a635f",
    "color-background-border": "#d8dbd5",
}
_DARK = {
    "color-brand-primary": "#74cbbf",
    "color-brand-content": "#74cbbf",
    "color-brand-visited": "#74cbbf",
    "color-background-primary": "#141817",
    "color-background-secondary": "#1c2220",
    "color-foreground-primary": "#e6eae7",
    "color-foreground-secondary": "#a3ada8",
    "color-foreground-muted": "#a3ada8",
    "color-background-border": "#343c39",
}
html_theme_options = {"light_css_variables": _LIGHT, "dark_css_variables": _DARK}
