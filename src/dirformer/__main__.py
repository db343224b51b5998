"""`python -m dirformer`."""

from dirformer.cli import main

main()
