"""Pairs as people have them: files of many formats, columns of many names.

`places` says which files of a path are read, `rows` and `arrow` read the rows
of one, `columns` says which column is what, `labels` which rows are positives,
and `pairs` makes a sequence of pairs of them that holds no text.
"""
