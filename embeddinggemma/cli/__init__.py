"""The command line: a program, its flags, and a function a verb."""
