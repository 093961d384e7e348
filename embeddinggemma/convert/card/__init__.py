"""The model card of an export: README.md, as the Hugging Face Hub reads it.

All that it says is recorded: in the checkpoint, its run, the certificate, score
files, or the file in which its publisher states the rest. What is not known is
said to be unknown, with what would tell it.
"""
