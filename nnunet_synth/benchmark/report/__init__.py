"""A benchmark's report: text, tables and figures, as Markdown and as one HTML page."""
