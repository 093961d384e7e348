"""Cross-lingual retrieval as in the paper (section 4): XOR-Retrieve, XTREME-UP.

Questions of many languages are asked of English passages, which stay on disk:
they are read, encoded and searched by blocks, once for all languages.
"""
