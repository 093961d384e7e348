"""A teacher's vectors, for distillation by embedding matching (section 2.2).

  embeddinggemma teach --config=configs/teach.py --data=PAIRS --output=DIR
  embeddinggemma teach --config=configs/teach.py --data=PAIRS --output=DIR \
    --vectors=FILE.npy --ids=TEXTS.jsonl
  embeddinggemma train --config=configs/finetune.py:laptop,data=PAIRS ... \
    --config.teacher=DIR --config.loss.distill=1 --config.loss.teacher_width=512

PAIRS may also hold texts.jsonl, texts without a partner, or be of such alone.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
  del arg
  config = ConfigDict()
  # tfidf needs no download. Or, each of a width of its own:
  #   DIR, a checkpoint or the workdir of a run
  #   FILE.gguf, in llama.cpp
  #   FILE.npy, vectors that you have, as by --vectors
  #   gemini:gemini-embedding-001, and others of the Gemini API. Its terms forbid
  #     its use for models that compete with it: docs/recipe.md, "Teachers"
  #   https://HOST/v1/embeddings, with the model in service.model
  #   a sentence-transformers model on this machine
  config.teacher = "tfidf"
  config.width = 512  # of tfidf's vectors
  config.dtype = "float16"  # or "float32"
  config.seed = 0
  config.ids = ""  # of FILE.npy: the texts of its rows; "": the file beside it
  config.threads = 0  # of FILE.gguf; 0: one a core
  # For the card of what is trained: what the teacher is called, its licence and
  # terms, where it does not say so itself.
  config.name = ""
  config.licence = ""
  config.terms = ""

  # A model behind an API.
  config.service = ConfigDict()
  config.service.model = ""  # as the endpoint names it
  config.service.dimensions = 0  # to ask for; 0: as many as it gives
  # Before each text: "none", "embeddinggemma" for our own prompts, or a JSON
  # file {"query": ..., "document": ...} with those of the endpoint's model.
  config.service.prompts = "none"
  # The environment variable that holds the key; of Gemini GEMINI_API_KEY.
  config.service.key = ""
  config.service.batch = 32  # texts a request
  config.service.requests_per_minute = 0.0  # 0: no limit
  config.service.tokens_per_minute = 0.0
  config.service.timeout = 60.0  # seconds
  config.service.tries = 6  # of a request that is answered by 429 or 5xx
  config.service.longest_wait = 300.0  # seconds that a service may ask for
  config.service.price_per_million = 0.0  # tokens, in dollars; 0: not known
  config.service.ask_above = 100_000  # tokens from which you are asked first
  config.service.yes = False  # go on without a question, as --yes
  return config
