"""The page of a run, and the HTML and ROC curves that all pages share."""
