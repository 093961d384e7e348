"""What is made of pairs before training: a teacher's vectors, hard negatives."""
