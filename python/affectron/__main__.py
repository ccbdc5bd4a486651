"""``python -m affectron``: the command line, where the script ``affectron`` is not on the path."""

from affectron.cli.app import main

main()
