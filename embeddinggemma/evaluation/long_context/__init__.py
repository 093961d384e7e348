"""How quality falls with the length of documents, on any local text.

Every document is running text of one length that holds a fact nobody wrote
before (a needle) and a passage of another text, at its start, middle or end.
Queries ask for the one and the other among all documents of that length. A
document grows by running text alone, so that fact, passage, places and queries
are the same at every length, and the curve shows what length does. After
LongEmbed (arXiv 2404.12096) and what is known of position bias (arXiv
2404.04163).
"""
