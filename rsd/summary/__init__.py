"""What runs say: one summary as values, computed in one place, and its renderings.

`values` holds the types; `compute` fills them from the rows of a run, `rsd.results` from those of
published files; `rules` says what is counted, pooled and compared, in code and in the notes below
every table; `terminal` and `markdown` render. Neither torch nor Ray.
"""
