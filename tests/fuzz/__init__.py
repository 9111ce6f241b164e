"""Generated input for everything that reads what a stranger may have written: `python -m tests.fuzz --count 50000`, and a part of it in `make test`."""
