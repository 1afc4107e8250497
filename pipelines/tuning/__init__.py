"""What ``make tune`` and ``make search`` stand on: search spaces, studies, pages, recipe files."""
