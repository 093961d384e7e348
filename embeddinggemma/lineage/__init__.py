"""What a model was made by: its stages, told without paths and secrets."""
