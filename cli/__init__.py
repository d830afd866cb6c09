"""The command line. It parses and checks arguments, calls the library and prints results, without computations."""
