"""`python -m rsd`: the command `rsd`, where it is not on the PATH."""

from rsd.commands import main

if __name__ == "__main__":
    main()
