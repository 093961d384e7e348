"""Tasks of the mteb package, scored by mteb itself with a model of ours.

`names` says which tasks a suite has, `encoder` and `hybrid` are the model as
mteb asks it, `about` is what mteb keeps of it, `running` scores task by task,
`scores` makes of mteb's results what our JSON and table show.
"""
