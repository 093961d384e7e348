"""Every format that is exported gives the model's vectors in its runtime."""

import json
import shutil

import pytest

from embeddinggemma.convert.certify import certificate

CASES = (
  ("sentence-transformers", "float32"),
  ("gguf", "float32"),
  ("gguf", "q8_0"),
  ("gguf", "q4_0"),
  ("gguf", "mixed"),
)


@pytest.mark.parametrize(("form", "dtype"), CASES)
def test_an_export_is_certified(form, dtype, base, call, figure, tmp_path):
  output = tmp_path / "exported"
  flags = (f"--format={form}", f"--dtype={dtype}", f"--output={output}")
  call("export", f"--model={base}", *flags)
  found = json.loads((output / certificate.FILE).read_text())
  shutil.rmtree(output)  # a gigabyte, of real weights
  figure(f"{form} {dtype}", certificate.summary(found))
  if found["verdict"] == certificate.UNCHECKED:
    pytest.skip(found["reason"])
  assert found["verdict"] == certificate.PASSED, found["reason"]
