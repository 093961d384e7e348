"""`python -m embeddinggemma`."""

from embeddinggemma.main import main

if __name__ == "__main__":
  main()
