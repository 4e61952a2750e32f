"""`python -m hat <command>`: the same as `hat <command>` after installation."""

from hat.cli.main import main

raise SystemExit(main())
