"""What several tests of search share."""

import pytest
from stand_in import CODE

from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
  """A vocabulary of a page of code: most of other scripts is bytes to it."""
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer([CODE, prompts.DOCUMENT] * 20, path, 600)
  return Tokenizer(path)
