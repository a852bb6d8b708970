"""`python -m kmsd` is `kmsd`."""

from kmsd.cli.main import main

raise SystemExit(main())
