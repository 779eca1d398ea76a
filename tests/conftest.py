"""What every test needs."""

import os

# Children that tests start with `python -c` import the installed package. Without this they would find the sources in
# the working directory first, which have no compiled core.
os.environ["PYTHONSAFEPATH"] = "1"
