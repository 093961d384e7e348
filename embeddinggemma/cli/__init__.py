"""The command line: the program, its flags, and a function per verb."""
