"""What is made from pairs before training: teacher vectors, hard negatives."""
