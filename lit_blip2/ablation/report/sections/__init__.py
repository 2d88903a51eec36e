"""A report's sections, as Markdown: words, tables and plots of each in a file."""
