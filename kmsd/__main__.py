"""`python -m kmsd` is `kmsd`."""

from kmsd.cli import main

raise SystemExit(main())
