"""The command line: parse, check, call the library, print."""
