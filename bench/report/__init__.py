"""The report: one page, Markdown, LaTeX and figures from records."""
