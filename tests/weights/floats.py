"""A GGUF file with all its tensors as float32: FROM TO.

llama.cpp rounds what it multiplies rounded weights with. Of the same weights
as floats it rounds nothing, so that its logits can be compared.
"""

import sys

import gguf
import numpy as np


def write(source: str, target: str) -> None:
  """Every key of the file, and what its tensors stand for, by `gguf`."""
  reader = gguf.GGUFReader(source)
  architecture = reader.fields["general.architecture"].contents()
  writer = gguf.GGUFWriter(target, architecture)
  for name, field in reader.fields.items():
    if not name.startswith("GGUF.") and name != "general.architecture":
      first, last = field.types[0], field.types[-1]
      writer.add_key_value(name, field.contents(), first, last)
  for tensor in reader.tensors:
    shape = [int(n) for n in reversed(tensor.shape)]
    size = 4 * int(tensor.n_elements)
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  for tensor in reader.tensors:
    floats = gguf.dequantize(tensor.data, tensor.tensor_type)
    writer.write_tensor_data(np.ascontiguousarray(floats, np.float32))
  writer.close()


if __name__ == "__main__":
  write(*sys.argv[1:])
