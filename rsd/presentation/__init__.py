"""Runs as people look at them: a page for a browser, figures and tables for a paper.

`evidence` is what there is to show, read from the books (with `parting` and `timeline`); `verdict`,
`tables` and `charts` say it in sentences, rows and lines; `interactive` and `page` draw those for a
browser, `paper` for print. Neither torch nor Ray.
"""
