"""Whether another runtime gives an export's vectors."""
