"""Random edits of a folder are never silently another model.

The short form reads no vectors: nothing crashes, every refusal names its file or
field, and what changes the model is refused or warned of. The long one compares
vectors with sentence-transformers', see `fuzz_import.py`.
"""

import shutil

import fuzz_import as fuzz
import numpy as np
import pytest

MODEL = np.zeros(1)  # stands for the vectors of a folder that is read


def said_of(exported, place, edit):
  """What was said of an edited copy, and whether it was read."""
  shutil.rmtree(place, ignore_errors=True)
  shutil.copytree(exported, place)
  edit.apply(place)
  said, found = fuzz.ours(place, lambda load: MODEL)
  return said, found is MODEL


@pytest.mark.parametrize("seed", range(4))
def test_refusals_name_the_file_or_the_field(exported, tmp_path, seed):
  refused = 0
  for edit in fuzz.edits(seed, 50):
    said, read = said_of(exported, tmp_path / "edited", edit)
    refused += not read
    if not read:
      assert any(name in said for name in edit.names), (edit.what, said)
      assert "\n" not in said
  assert 10 < refused < 45


def field(file, key, value):
  return fuzz.Edit(
    f"{file}: {key}",
    (key,),
    lambda folder: fuzz.write(folder / file, key, value),
  )


CHANGES = [
  field(fuzz.CONFIG, "attn_logit_softcapping", 50.0),
  field(fuzz.CONFIG, "quantization_config", {"quant_method": "gptq"}),
  field(fuzz.CONFIG, "auto_map", {"AutoModel": "modeling.Model"}),
  field(fuzz.CONFIG, "is_causal", False),
  field(fuzz.CONFIG, "dtype", "float16"),
  field(fuzz.LENGTH, "query_length", 8),
  field(fuzz.LENGTH, "processing_kwargs", {"text": {"max_length": 8}}),
  field(fuzz.LENGTH, "processor_kwargs", {"add_eos_token": False}),
  field(fuzz.LENGTH, "config_args", {"rms_norm_eps": 0.1}),
  field(fuzz.LENGTH, "model_args", {"torch_dtype": "bfloat16"}),
  field(fuzz.LENGTH, "modality_config", {"message": {}}),
  field(fuzz.LENGTH, "transformer_task", "text-generation"),
  field(fuzz.SETTINGS, "model_type", "SparseEncoder"),
  field(fuzz.SETTINGS, "truncate_dim", 16),
  field("2_Dense/config.json", "use_residual", True),
  field("3_Dense/config.json", "module_input_name", "token_embeddings"),
  field("4_Normalize/config.json", "module_output_name", "other"),
  field("1_Pooling/config.json", "include_prompt", False),
  field(fuzz.TOKENIZER, "truncation_side", "left"),
  *(
    fuzz.Edit(name, *fuzz.FILES[name])
    for name in (
      "tensors named _orig_mod.*",
      "two modules of one name",
      "a module Router",
      "a module WordWeights",
      "weights in float64",
      "a Dense with a bias",
      "other.safetensors added",
      "5_Dense/config.json added",
      "adapter_config.json added",
      "preprocessor_config.json added",
    )
  ),
  fuzz.Edit("cut at the left", *fuzz.IDS["truncation from the left"]),
]


@pytest.mark.parametrize("edit", CHANGES, ids=lambda edit: edit.what)
def test_what_changes_the_model_is_never_unsaid(exported, tmp_path, edit):
  said, _ = said_of(exported, tmp_path / "edited", edit)
  assert any(name in said for name in edit.names), said


HARMLESS = [
  field(fuzz.CONFIG, "final_logit_softcapping", 5.0),
  field(fuzz.CONFIG, "architectures", ["Gemma3ForCausalLM"]),
  field(fuzz.CONFIG, "attention_dropout", 0.5),
  field(fuzz.LENGTH, "unpad_inputs", False),
  field(fuzz.LENGTH, "model_kwargs", {"attn_implementation": "eager"}),
  field("2_Dense/config.json", "activation_function", "torch.nn.Identity"),
  *(
    fuzz.Edit(name, *fuzz.FILES[name])
    for name in (
      "weights in bfloat16",
      "shards",
      "shards and the whole",
      "a head",
      "modules out of order by idx",
      "modules without idx",
      "the Transformer in a folder",
      "pytorch_model.bin added",
      "onnx/model.onnx added",
      "checkpoint-5/model.safetensors added",
      "optimizer.pt added",
      "model.gguf added",
      "modeling_custom.py added",
    )
  ),
]


@pytest.mark.parametrize("edit", HARMLESS, ids=lambda edit: edit.what)
def test_what_people_have_is_read_without_a_warning(exported, tmp_path, edit):
  said, read = said_of(exported, tmp_path / "edited", edit)
  assert read and said == ""


@pytest.mark.slow
def test_vectors_are_those_of_sentence_transformers(tmp_path, tokenizer_model):
  pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5")
  pytest.importorskip("sentence_transformers", minversion="6")
  from test_sentence_transformers_parity import sentence_transformer

  _, base = sentence_transformer(tmp_path, tokenizer_model, 8)
  for edit in fuzz.edits(0, 300):
    found = fuzz.tried(base, edit, tmp_path / "edited")
    assert not found.bad, (edit.what, found)
