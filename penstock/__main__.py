"""`python -m penstock`, which is the `penstock` command."""

from penstock.cli import main

main()
