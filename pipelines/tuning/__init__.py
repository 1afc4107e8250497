"""Parts of ``make tune`` and ``make search``: search spaces, studies, pages, recipe files."""
