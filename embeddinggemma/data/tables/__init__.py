"""Pairs as people have them: files of many formats, columns of many names.

`places` says which files of a path are read, `rows` and `arrow` read the rows
of one, `columns` says which column is what, by known names or by `fields`,
`labels` which rows are positives, and `pairs` makes a sequence of pairs of them
that holds no text. Of the others, `denied` keeps the texts as negatives.
"""
