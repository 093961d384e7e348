"""Entry point of `python -m embeddinggemma`."""

from embeddinggemma.cli.main import main

if __name__ == "__main__":
  main()
