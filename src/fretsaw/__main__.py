"""`python -m fretsaw` is the command `fretsaw`."""

from fretsaw.cli import main

main()
